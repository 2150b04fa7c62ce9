// What a daemon lets be seen of its state: /readyz, /metrics, and its log.
#pragma once
#include <string>

#include "base/status.h"

namespace thermocline::faults {

/// The body of a GET, from 127.0.0.1.
/// Errors: Unavailable: there was no whole answer within two seconds.
absl::StatusOr<std::string> HttpGet(uint16_t port, const std::string& path);

/// The value of a series as it is printed, name and labels:
/// `thermocline_tier_degraded{tier="cold"}`. The sum of all whose text begins so. 0: there is none.
double MetricOf(const std::string& metrics, const std::string& series);

}  // namespace thermocline::faults
