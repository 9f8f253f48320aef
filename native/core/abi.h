// The ring ABI: what the engine and JavaScript share by memory. Defined here once; native/abi.ts mirrors it by name and
// the loader compares every value, so an addon and a script of different builds refuse each other.
//
// Records are 16 little-endian u32 words (64 bytes: one cache line). An event and a command that concern the same thing
// keep their fields in the same words.
#pragma once

#include <cstdint>

#define BRAID_ABI(X)                                                                                         \
  X(ABI_VERSION, 1)                                                                                          \
  /* Sizes that the formats are built on. */                                                                 \
  X(BLOCK_BYTES, 4096)                                                                                       \
  X(BUFFER_BYTES_MAX, 131072)                                                                                \
  X(RECORD_WORDS, 16)                                                                                        \
  X(EVENTS_MAX, 16)                                                                                          \
  X(COMMANDS_MAX, 4096)                                                                                      \
  /* Low bits of a connection's id: its slot, which is its index in the table of unsent bytes. */            \
  X(CONNECTION_SLOT_BITS, 12)                                                                                \
  X(CONNECTION_SLOTS, 2048)                                                                                  \
  /* Words of the control block, written by both sides in turn. */                                           \
  X(CONTROL_COMMAND_COUNT, 0)                                                                                \
  X(CONTROL_FREED_COUNT, 1)                                                                                  \
  X(CONTROL_BATCH_MS, 2)                                                                                     \
  X(CONTROL_WORDS, 16)                                                                                       \
  /* Pools, as in daemon/ports/slab.ts. */                                                                   \
  X(POOL_FRONTEND, 0)                                                                                        \
  X(POOL_PEER, 1)                                                                                            \
  X(POOL_INTERNAL, 2)                                                                                        \
  /* Event kinds. */                                                                                         \
  X(EVENT_FRAME, 1)                                                                                          \
  X(EVENT_NBD_REQUEST, 2)                                                                                    \
  X(EVENT_DISK, 3)                                                                                           \
  X(EVENT_ACCEPTED, 4)                                                                                       \
  X(EVENT_CONNECTED, 5)                                                                                      \
  X(EVENT_CLOSED, 6)                                                                                         \
  X(EVENT_BYTES, 7)                                                                                          \
  X(EVENT_AVAILABLE, 8)                                                                                      \
  X(EVENT_DISK_CLOSED, 9)                                                                                    \
  X(EVENT_DRAINED, 10)                                                                                       \
  /* Command kinds. */                                                                                       \
  X(COMMAND_SEND_FRAME, 1)                                                                                   \
  X(COMMAND_DISK_READ, 2)                                                                                    \
  X(COMMAND_DISK_WRITE, 3)                                                                                   \
  X(COMMAND_DISK_FLUSH, 4)                                                                                   \
  X(COMMAND_DISK_PUNCH, 5)                                                                                   \
  X(COMMAND_DISK_ZERO, 6)                                                                                    \
  X(COMMAND_NBD_SIMPLE, 7)                                                                                   \
  X(COMMAND_NBD_DATA, 8)                                                                                     \
  X(COMMAND_NBD_DATA_CHUNK, 9)                                                                               \
  X(COMMAND_NBD_HOLE_CHUNK, 10)                                                                              \
  X(COMMAND_NBD_STATUS_CHUNK, 11)                                                                            \
  X(COMMAND_CLOSE, 12)                                                                                       \
  X(COMMAND_RECEIVING, 13)                                                                                   \
  /* Word 0: kind in bits 0..7; frames: opcode 8..15, flags 16..31; NBD requests: type 16..31. */            \
  X(WORD_KIND, 0)                                                                                            \
  /* Connection, drive or pool. */                                                                           \
  X(WORD_TARGET, 1)                                                                                          \
  X(WORD_BUFFER, 2)                                                                                          \
  /* Frames and drive I/O. */                                                                                \
  X(WORD_TAG, 3)                                                                                             \
  X(WORD_SESSION, 4)                                                                                         \
  X(WORD_SEGMENT, 5)                                                                                         \
  X(WORD_GENERATION, 6)                                                                                      \
  X(WORD_EPOCH, 7)                                                                                           \
  X(WORD_OFFSET_LOW, 8)                                                                                      \
  X(WORD_OFFSET_HIGH, 9)                                                                                     \
  X(WORD_LENGTH, 10)                                                                                         \
  /* Of a piece of an NBD WRITE: the length of the whole. */                                                 \
  X(WORD_PAYLOAD_LENGTH, 11)                                                                                 \
  /* Status of a reply; result of drive I/O; close reason; error of an NBD reply; durable; receiving. */     \
  X(WORD_STATUS, 12)                                                                                         \
  X(WORD_BUFFER_OFFSET, 13)                                                                                  \
  X(WORD_REPLY_BUFFER, 14)                                                                                   \
  /* errno of a close. */                                                                                    \
  X(WORD_ERRNO, 15)                                                                                          \
  /* NBD: flags 0..15, first 16, last 17; cookie; final. */                                                  \
  X(WORD_NBD_FLAGS, 3)                                                                                       \
  X(WORD_COOKIE_HIGH, 4)                                                                                     \
  X(WORD_COOKIE_LOW, 5)                                                                                      \
  X(WORD_FINAL, 6)                                                                                           \
  /* Accepted: the listener and the protocol. */                                                             \
  X(WORD_LISTENER, 3)                                                                                        \
  X(WORD_PROTOCOL, 4)                                                                                        \
  X(PROTOCOL_FRAMES, 0)                                                                                      \
  X(PROTOCOL_NBD, 1)                                                                                         \
  /* Close reasons; messages in daemon/adapters/uring/close-reason.ts. */                                    \
  X(CLOSE_LOCAL, 1)                                                                                          \
  X(CLOSE_PEER, 2)                                                                                           \
  X(CLOSE_PEER_MID_FRAME, 3)                                                                                 \
  X(CLOSE_CONNECT_FAILED, 4)                                                                                 \
  X(CLOSE_RECEIVE_FAILED, 5)                                                                                 \
  X(CLOSE_SEND_FAILED, 6)                                                                                    \
  X(CLOSE_BAD_MAGIC, 7)                                                                                      \
  X(CLOSE_BAD_HEADER_CHECKSUM, 8)                                                                            \
  X(CLOSE_BAD_VERSION, 9)                                                                                    \
  X(CLOSE_PAYLOAD_TOO_LARGE, 10)                                                                             \
  X(CLOSE_UNANNOUNCED_REPLY, 11)                                                                             \
  X(CLOSE_BAD_TABLE_CHECKSUM, 12)                                                                            \
  X(CLOSE_BAD_PAYLOAD_CHECKSUM, 13)                                                                          \
  X(CLOSE_TOO_MANY_READS, 14)                                                                                \
  X(CLOSE_NBD_BAD_MAGIC, 15)                                                                                 \
  X(CLOSE_NBD_WRITE_TOO_LARGE, 16)                                                                           \
  X(CLOSE_NBD_LEFTOVER_TOO_LARGE, 17)                                                                        \
  X(CLOSE_PEER_DOES_NOT_READ, 18)                                                                            \
  X(CLOSE_STOPPED, 19)                                                                                       \
  X(CLOSE_RESOLVE_FAILED, 20)

namespace braid::abi {
#define BRAID_ABI_CONSTANT(name, value) constexpr uint32_t name = value;
BRAID_ABI(BRAID_ABI_CONSTANT)
#undef BRAID_ABI_CONSTANT

struct Record {
  uint32_t words[RECORD_WORDS];
};
static_assert(sizeof(Record) == 64, "a record is one cache line");
}  // namespace braid::abi
