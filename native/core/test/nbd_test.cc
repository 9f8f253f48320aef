#include "../nbd.h"

#include "test.h"

using namespace braid;

namespace {

constexpr uint32_t WRITE_MAX = 32u << 20;

void packRequest(uint8_t* out, uint32_t magic, uint16_t type, uint64_t offset, uint32_t length) {
  storeBig<uint32_t>(out, magic);
  storeBig<uint16_t>(out + 4, 1);
  storeBig<uint16_t>(out + 6, type);
  storeBig<uint32_t>(out + 8, 0x01020304);
  storeBig<uint32_t>(out + 12, 0x05060708);
  storeBig<uint64_t>(out + 16, offset);
  storeBig<uint32_t>(out + 24, length);
}

}  // namespace

TEST(nbd_parses_requests) {
  uint8_t bytes[NBD_REQUEST_BYTES];
  NbdRequestHeader request;
  packRequest(bytes, NBD_REQUEST_MAGIC, 6, 0x1122334455667788, 0xffffffff);
  CHECK_EQUAL(parseNbdRequest(bytes, WRITE_MAX, &request), 0u);
  CHECK_EQUAL(request.flags, 1);
  CHECK_EQUAL(request.type, 6);
  CHECK_EQUAL(request.cookieHigh, 0x01020304u);
  CHECK_EQUAL(request.cookieLow, 0x05060708u);
  CHECK_EQUAL(request.offset, 0x1122334455667788ull);
  CHECK_EQUAL(request.length, 0xffffffffu);
}

TEST(nbd_refuses_a_wrong_magic_and_a_write_that_is_too_long) {
  uint8_t bytes[NBD_REQUEST_BYTES];
  NbdRequestHeader request;
  packRequest(bytes, NBD_REQUEST_MAGIC + 1, 0, 0, 512);
  CHECK_EQUAL(parseNbdRequest(bytes, WRITE_MAX, &request), abi::CLOSE_NBD_BAD_MAGIC);
  packRequest(bytes, NBD_REQUEST_MAGIC, NBD_CMD_WRITE, 0, WRITE_MAX + 1);
  CHECK_EQUAL(parseNbdRequest(bytes, WRITE_MAX, &request), abi::CLOSE_NBD_WRITE_TOO_LARGE);
  packRequest(bytes, NBD_REQUEST_MAGIC, NBD_CMD_WRITE, 0, WRITE_MAX);
  CHECK_EQUAL(parseNbdRequest(bytes, WRITE_MAX, &request), 0u);
  packRequest(bytes, NBD_REQUEST_MAGIC, 4, 0, WRITE_MAX + 1);  // TRIM has no payload
  CHECK_EQUAL(parseNbdRequest(bytes, WRITE_MAX, &request), 0u);
}

TEST(nbd_cuts_writes_at_extents) {
  CHECK_EQUAL(nbdPieceLength(0, 512), 512u);
  CHECK_EQUAL(nbdPieceLength(0, 131072), 131072u);
  CHECK_EQUAL(nbdPieceLength(0, 131073), 131072u);
  CHECK_EQUAL(nbdPieceLength(131072 - 512, 1024), 512u);
  CHECK_EQUAL(nbdPieceLength(131072 * 5 + 4096, 1 << 20), 131072u - 4096);
  CHECK_EQUAL(nbdPieceLength(0xffffffffffffff00ull, 4096), 0x100u);
}

TEST(nbd_packs_replies) {
  uint8_t bytes[NBD_CHUNK_HEADER_BYTES];
  packNbdSimpleReply(bytes, 1, 2, 5);
  const uint8_t simple[] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2};
  CHECK(std::memcmp(bytes, simple, sizeof simple) == 0);
  packNbdChunk(bytes, true, NBD_REPLY_TYPE_ERROR, 1, 2, 6);
  const uint8_t chunk[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 6};
  CHECK(std::memcmp(bytes, chunk, sizeof chunk) == 0);
}
