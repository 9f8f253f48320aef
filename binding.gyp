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
      "defines": ["NAPI_VERSION=8"],
      "libraries": ["<(liburing_library)"],
      "conditions": [
        ["OS!='linux'", {"sources/": [["exclude", ".*"]]}]
      ]
    }
  ]
}
