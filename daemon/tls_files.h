// The files of the TLS door. gRPC watches them itself and takes up what is new; of files that do
// not fit it says only that handshakes fail. So they are looked at here first: at the start, where
// a mistake refuses it, and on SIGHUP, where it is logged.
#pragma once
#include <string>

#include "base/status.h"

namespace thermocline {

struct TlsFiles {
  std::string certificate;  // of the daemon, with its chain; PEM, as all of them
  std::string key;
  std::string client_ca;  // "": clients show no certificate
};

/// Whether they can be read and belong together, and the certificate is in its time.
/// Errors: InvalidArgument and those of reading, naming the option and the file.
absl::Status CheckTlsFiles(const TlsFiles& files);

}  // namespace thermocline
