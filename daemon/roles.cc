#include "daemon/roles.h"

#include "base/check.h"

namespace thermocline {

const char* RoleName(Role role) {
  switch (role) {
    case Role::kLocal:
      return "local";
    case Role::kAdmin:
      return "admin";
    case Role::kReader:
      return "reader";
    case Role::kWriter:
      return "writer";
  }
  TC_CHECK(false);
}

bool Grants(Role role, Right right) {
  switch (right) {
    case Right::kRead:
      return true;
    case Right::kWrite:
      return role != Role::kReader;
    case Right::kFetch:
      return role == Role::kReader || role == Role::kWriter;
    case Right::kSend:
      return role == Role::kWriter;
    case Right::kDestroy:
      return role == Role::kAdmin;
  }
  TC_CHECK(false);
}

}  // namespace thermocline
