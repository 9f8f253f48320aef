// A map from request tags to u32 values: open addressing, no allocation but to grow. Engine thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace braid {

class TagTable {
 public:
  // Overwrites. `value` is not 0.
  void put(uint32_t tag, uint32_t value) {
    if ((count_ + 1) * 2 > slots_.size()) grow();
    uint32_t at = home(tag);
    while (slots_[at].value != 0 && slots_[at].tag != tag) at = (at + 1) & mask();
    if (slots_[at].value == 0) count_++;
    slots_[at] = {tag, value};
  }

  // Removes and returns the value of `tag`; 0 when there is none.
  uint32_t take(uint32_t tag) {
    if (count_ == 0) return 0;
    uint32_t at = home(tag);
    while (slots_[at].value != 0 && slots_[at].tag != tag) at = (at + 1) & mask();
    const uint32_t value = slots_[at].value;
    if (value != 0) remove(at);
    return value;
  }

  uint32_t count() const { return count_; }

 private:
  struct Slot {
    uint32_t tag;
    uint32_t value;
  };
  uint32_t mask() const { return static_cast<uint32_t>(slots_.size()) - 1; }
  uint32_t home(uint32_t tag) const { return (tag * 2654435769u >> 7) & mask(); }

  // Closes the gap: moves back each follower whose home is not behind the gap.
  void remove(uint32_t gap) {
    count_--;
    slots_[gap].value = 0;
    for (uint32_t at = (gap + 1) & mask(); slots_[at].value != 0; at = (at + 1) & mask()) {
      if (((at - home(slots_[at].tag)) & mask()) < ((at - gap) & mask())) continue;
      slots_[gap] = slots_[at];
      slots_[at].value = 0;
      gap = at;
    }
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    count_ = 0;
    for (const Slot& slot : old) {
      if (slot.value != 0) put(slot.tag, slot.value);
    }
  }

  std::vector<Slot> slots_;
  uint32_t count_ = 0;
};

}  // namespace braid
