// Who may do what. A call asks for one right; a session has the rights of its role; the role comes
// from how the session was opened, never from a request. docs/security.md has the table of every
// method by role, and a test holds it against a running daemon.
#pragma once
#include <cstdint>

namespace thermocline {

enum class Right : uint8_t {
  kRead,     // find, lease, promote, list
  kWrite,    // reserve, commit, pin
  kFetch,    // have bytes sent: for those who cannot map the arena
  kSend,     // send bytes
  kDestroy,  // delete, flush, drop
};

enum class Role : uint8_t {
  kLocal,   // a session of the socket with the map: its bytes do not travel
  kAdmin,   // the same, of the daemon's own user, who asked for it
  kReader,  // a remote session whose token says "reader"
  kWriter,  // a remote session whose token says "writer"
};

/// "local", "admin", "reader", "writer".
const char* RoleName(Role role);
bool Grants(Role role, Right right);

}  // namespace thermocline
