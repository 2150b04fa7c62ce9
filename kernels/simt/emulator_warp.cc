// What the lanes of a warp do together, and what one lane does to memory beyond plain loads and
// stores: shuffles, votes, tensor-core fragments in the layouts of the PTX ISA, cp.async, atomics.
#include <cmath>
#include <cstring>

#include "kernels/simt/emulator_state.h"
#include "kernels/simt/numbers.h"

namespace thermocline::simt {
namespace {

enum Operation : int { kShuffle, kBallot = 8, kBarrier, kMatrices, kMultiply };

bool IsAligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

/// The operands of mma.m16n8k16 that one lane holds.
struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
  uint32_t bfloat16;
};
static_assert(sizeof(Fragments) <= Meeting::kSlotBytes);

float Number(uint32_t pair, int index, bool bfloat16) {
  const auto bits = static_cast<uint16_t>(pair >> (16 * index));
  return bfloat16 ? ToFloat(Bfloat16{bits}) : ToFloat(Half{bits});
}

void MultiplyAll(Meeting& meeting) {
  float a[16][16], b[16][8], c[16][8] = {};
  Fragments lanes[kLanes];
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    std::memcpy(&lanes[lane], meeting.slot(lane), sizeof(Fragments));
    const Fragments& f = lanes[lane];
    const uint32_t group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 8; ++i) {
      a[group + i / 2 % 2 * 8][pair + i % 2 + i / 4 * 8] = Number(f.a[i / 2], i % 2, f.bfloat16);
    }
    for (int i = 0; i < 4; ++i) {
      b[pair + i % 2 + i / 2 * 8][group] = Number(f.b[i / 2], i % 2, f.bfloat16);
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) lanes[lane].c[i] += c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    std::memcpy(meeting.slot(lane), &lanes[lane], sizeof(Fragments));
  }
}

template <class T, class Change>
T ChangeAtomically(T* at, Change change, const void* instruction) {
  if (!IsAligned(at, sizeof(T))) Fail("atomic at a misaligned address %p", static_cast<void*>(at));
  NoteAccess(at, sizeof(T), Access::kAtomic, instruction);
  const T before = *at;
  *at = change(before);
  return before;
}

}  // namespace

Meeting& Meet(Site site, uint32_t mask, int operation, const void* part, size_t bytes,
              void (*combine)(Meeting&)) {
  Lane& self = *current_lane;
  Warp& warp = *self.warp;
  mask &= warp.existing;
  if ((mask & self.bit()) == 0) {
    Fail("%s:%d: lane %u is not in its own mask %08x", site.file, site.line, self.lane, mask);
  }
  if ((mask & ~warp.live) != 0) {
    Fail("%s:%d: mask %08x names lanes that have ended, %08x", site.file, site.line, mask,
         mask & ~warp.live);
  }
  Meeting* meeting = nullptr;
  for (Meeting& open : warp.meetings) {
    if (open.mask == mask && open.arrived != mask && (open.arrived & self.bit()) == 0) {
      meeting = &open;
      break;
    }
    if (open.mask == 0 && meeting == nullptr) meeting = &open;
  }
  if (meeting == nullptr) Fail("%s:%d: too many warp operations at once", site.file, site.line);
  if (meeting->mask == 0) {
    meeting->mask = mask;
    meeting->arrived = meeting->left = 0;
    meeting->operation = operation;
    meeting->site = site;
    meeting->first_lane = self.lane;
  } else if (meeting->operation != operation || meeting->site.line != site.line) {
    Fail("%s:%d: lane %u is at another warp operation than lane %u (%s:%d)", site.file, site.line,
         self.lane, meeting->first_lane, meeting->site.file, meeting->site.line);
  }
  if (bytes > 0) std::memcpy(meeting->slot(self.lane), part, bytes);
  meeting->arrived |= self.bit();
  if (meeting->arrived == mask) {
    if (combine != nullptr) combine(*meeting);
    warp.runnable |= mask;
  } else {
    warp.runnable &= ~self.bit();
    SwitchAway();
  }
  meeting->left |= self.bit();
  if (meeting->left == mask) meeting->mask = 0;
  return *meeting;
}

void WarpBarrier(Site site, uint32_t mask) {
  Meeting& meeting = Meet(site, mask, kBarrier, nullptr, 0, [](Meeting& complete) {
    const uint32_t epoch = ++current_lane->warp->barriers;
    std::memcpy(complete.slot(0), &epoch, sizeof(epoch));
  });
  std::memcpy(&current_lane->warp_epoch, meeting.slot(0), sizeof(uint32_t));
}

void ShuffleBytes(Site site, uint32_t mask, const void* value, void* result, size_t bytes,
                  ShuffleKind kind, int operand, int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    Fail("%s:%d: shuffle over %d lanes; a power of two up to 32 is possible", site.file, site.line,
         width);
  }
  const int self = static_cast<int>(current_lane->lane);
  const int first = self & ~(width - 1), last = first + width - 1;
  int from = self;
  switch (kind) {
    case ShuffleKind::kIndex:
      from = first + (operand & (width - 1));
      break;
    case ShuffleKind::kXor:
      from = (self ^ operand) > last ? self : self ^ operand;
      break;
    case ShuffleKind::kUp:
      from = self - operand < first ? self : self - operand;
      break;
    case ShuffleKind::kDown:
      from = self + operand > last ? self : self + operand;
      break;
  }
  Meeting& meeting = Meet(site, mask, kShuffle + static_cast<int>(kind), value, bytes);
  if ((mask >> from & 1) == 0 || (current_lane->warp->existing >> from & 1) == 0) {
    Fail("%s:%d: shuffle reads lane %d, which does not take part (mask %08x)", site.file, site.line,
         from, mask);
  }
  std::memcpy(result, meeting.slot(static_cast<uint32_t>(from)), bytes);
}

uint32_t Ballot(Site site, uint32_t mask, int predicate) {
  const uint32_t vote = predicate != 0;
  Meeting& meeting = Meet(site, mask, kBallot, &vote, sizeof(vote));
  uint32_t votes = 0;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    if ((mask & current_lane->warp->existing) >> lane & 1) {
      uint32_t other;
      std::memcpy(&other, meeting.slot(lane), sizeof(other));
      votes |= other << lane;
    }
  }
  return votes;
}

void LoadMatrixFragments(Site site, uint32_t* r, const void* row, bool transposed) {
  if (!IsAligned(row, 16)) Fail("%s:%d: ldmatrix of a misaligned row", site.file, site.line);
  NoteAccess(row, 16, Access::kRead, __builtin_return_address(0));
  Meeting& meeting = Meet(site, 0xffffffffu, kMatrices, &row, sizeof(row));
  const uint32_t lane = current_lane->lane;
  const auto element = [&](uint32_t matrix, uint32_t i, uint32_t column) {
    const char* at;
    std::memcpy(&at, meeting.slot(8 * matrix + i), sizeof(at));
    uint16_t bits;
    std::memcpy(&bits, at + 2 * column, sizeof(bits));
    return uint32_t{bits};
  };
  for (uint32_t m = 0; m < 4; ++m) {
    const uint32_t group = lane / 4, pair = lane % 4 * 2;
    r[m] = transposed ? element(m, pair, group) | element(m, pair + 1, group) << 16
                      : element(m, group, pair) | element(m, group, pair + 1) << 16;
  }
}

void MultiplyFragments(Site site, float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
                       bool bfloat16) {
  Fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}, bfloat16};
  Meeting& meeting = Meet(site, 0xffffffffu, kMultiply, &mine, sizeof(mine), MultiplyAll);
  std::memcpy(&mine, meeting.slot(current_lane->lane), sizeof(mine));
  std::memcpy(c, mine.c, sizeof(mine.c));
}

void LoadAligned(void* to, const void* from, size_t bytes) {
  if (!IsAligned(from, bytes)) Fail("%zu-byte load from a misaligned address %p", bytes, from);
  NoteAccess(from, bytes, Access::kRead, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void StoreAligned(void* to, const void* from, size_t bytes) {
  if (!IsAligned(to, bytes)) Fail("%zu-byte store to a misaligned address %p", bytes, to);
  NoteAccess(to, bytes, Access::kWrite, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void CopyAsync16(void* to, const void* from, bool wanted) {
  Lane& self = *current_lane;
  if (!IsAligned(to, 16) || !IsAligned(from, 16)) Fail("cp.async at a misaligned address");
  if (self.copies.size() == kMaxPendingCopies) Fail("too many cp.async under way");
  const char* const instruction = static_cast<const char*>(__builtin_return_address(0));
  // One instruction, two accesses: the statistics know them by neighbouring addresses.
  if (wanted) NoteAccess(from, 16, Access::kRead, instruction - 1);
  NoteAccess(to, 16, Access::kWrite, instruction);
  std::memset(to, 0xff, 16);
  self.copies.push_back({to, from, wanted});
}

void CopyAsyncCommit() {
  Lane& self = *current_lane;
  if (self.copy_groups.size() == kMaxCopyGroups) Fail("too many groups of cp.async under way");
  self.copy_groups.push_back(static_cast<int>(self.copies.size()));
}

void CopyAsyncWaitFor(int groups) {
  Lane& self = *current_lane;
  const int ended = static_cast<int>(self.copy_groups.size()) - groups;
  if (ended <= 0) return;
  const int count = self.copy_groups[ended - 1];
  for (int i = 0; i < count; ++i) {
    const PendingCopy& copy = self.copies[i];
    NoteAccess(copy.to, 16, Access::kWrite, nullptr);
    if (copy.wanted) {
      std::memcpy(copy.to, copy.from, 16);
    } else {
      std::memset(copy.to, 0, 16);
    }
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + count);
  self.copy_groups.erase(self.copy_groups.begin(), self.copy_groups.begin() + ended);
  for (int& end : self.copy_groups) end -= count;
}

float AtomicAdd(float* at, float value) {
  return ChangeAtomically(
      at, [=](float x) { return x + value; }, __builtin_return_address(0));
}
int AtomicAdd(int* at, int value) {
  return ChangeAtomically(
      at, [=](int x) { return x + value; }, __builtin_return_address(0));
}
uint32_t AtomicAdd(uint32_t* at, uint32_t value) {
  return ChangeAtomically(
      at, [=](uint32_t x) { return x + value; }, __builtin_return_address(0));
}
int AtomicMax(int* at, int value) {
  return ChangeAtomically(
      at, [=](int x) { return x > value ? x : value; }, __builtin_return_address(0));
}
uint32_t AtomicMax(uint32_t* at, uint32_t value) {
  return ChangeAtomically(
      at, [=](uint32_t x) { return x > value ? x : value; }, __builtin_return_address(0));
}

}  // namespace thermocline::simt
