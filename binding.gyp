{
  "targets": [
    {
      "target_name": "braid",
      # Stops with the name of the package when the header is missing.
      "variables": {
        "liburing_library": "<!(sh native/check-liburing.sh)"
      },
      "sources": ["<!@(ls native/core/*.cc native/bridge/*.cc)"],
      "cflags_cc": ["-std=c++17", "-O3", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
      "libraries": ["<(liburing_library)"],
      "conditions": [
        ["OS!='linux'", {"sources/": [["exclude", ".*"]]}]
      ]
    }
  ]
}
