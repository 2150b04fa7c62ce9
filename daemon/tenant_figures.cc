#include "daemon/tenant_figures.h"

#include <algorithm>

#include "base/mutex.h"

namespace thermocline {

struct TenantFigures::Board {
  struct Entry {
    StackStats last;
    bool asked = false;  // and has not answered
  };
  explicit Board(size_t tenants) : entries(tenants) {}

  Mutex mutex;
  CondVar answered;
  std::vector<Entry> entries TC_GUARDED_BY(mutex);  // by tenant
};

TenantFigures::TenantFigures(std::vector<Tenant*> tenants)
    : tenants_(std::move(tenants)), board_(std::make_shared<Board>(tenants_.size())) {}

TenantFigures::Figures TenantFigures::Ask(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  MutexLock lock(board_->mutex);
  std::vector<Board::Entry>& entries = board_->entries;
  std::vector<size_t> asked;
  for (size_t i = 0; i < tenants_.size(); ++i) {
    if (entries[i].asked) continue;
    entries[i].asked = tenants_[i]->Post([board = board_, i](TenantView& view) {
      if (view.stack == nullptr) return;
      const StackStats stats = view.stack->Stats();
      MutexLock answering(board->mutex);
      board->entries[i] = {stats, false};
      board->answered.NotifyAll();
    });
    if (entries[i].asked) asked.push_back(i);
  }
  const auto is_missing = [&](size_t i) TC_REQUIRES(board_->mutex) { return entries[i].asked; };
  while (std::any_of(asked.begin(), asked.end(), is_missing)) {
    if (!board_->answered.WaitUntil(board_->mutex, deadline)) break;
  }
  Figures figures;
  for (size_t i = 0; i < tenants_.size(); ++i) {
    StackStats stats = entries[i].last;
    for (TierStats& tier : stats.tiers) {
      if (tier.state == "ok" || tenants_.size() == 1) continue;
      tier.state = "tenant " + tenants_[i]->name() + ": " + tier.state;
    }
    if (i == 0) {
      figures.sum = std::move(stats);
    } else {
      figures.sum += stats;
    }
    const bool has_answered =
        !entries[i].asked && std::find(asked.begin(), asked.end(), i) != asked.end();
    if (!has_answered) figures.silent.push_back(tenants_[i]->name());
  }
  return figures;
}

}  // namespace thermocline
