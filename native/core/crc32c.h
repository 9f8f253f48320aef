// CRC-32C (Castagnoli), as on the wire and on drives. All functions are pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace braid {

// CRC of `length` bytes; `crc` is that of what came before them (0 for nothing). Uses the processor's instruction if it has one.
uint32_t crc32c(uint32_t crc, const void* data, size_t length);

// The same without the instruction, for processors that lack it and for tests.
uint32_t crc32cPortable(uint32_t crc, const void* data, size_t length);

// One CRC per 4 KiB block into `table`; the last block may be short.
void crc32cBlocks(const void* data, size_t length, uint32_t* table);

// Whether `crc32c` uses the processor's instruction.
bool crc32cIsAccelerated();

}  // namespace braid
