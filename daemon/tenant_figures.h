// The figures of all tenants together, for whoever looks at the daemon from outside. All are asked
// at once and waited for until one deadline, so that a tenant whose strand is busy or stuck hides
// nothing of the others: what it answered last stands for it, and it is named. Until it answers it
// is asked no second question and not waited for again.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/tenant.h"
#include "tiers/stack_stats.h"

namespace thermocline {

/// Thread: any, one at a time. Borrows the tenants.
class TenantFigures {
 public:
  explicit TenantFigures(std::vector<Tenant*> tenants);

  struct Figures {
    StackStats sum;
    std::vector<std::string> silent;  // tenants that did not answer
  };
  /// Waits so long at most.
  Figures Ask(std::chrono::milliseconds patience);

 private:
  struct Board;
  const std::vector<Tenant*> tenants_;
  const std::shared_ptr<Board> board_;  // shared with questions that still wait on a strand
};

}  // namespace thermocline
