// What gRPC can do at best: a store of our own behind one bidirectional stream. A message is a
// byte for what it asks, keys of 16 bytes, and the value itself; messages are ByteBuffers, so that
// no proto is built, parsed or copied: the server keeps the slices that arrived, and sends them
// back as they are. As good as a store over gRPC can get, and no product.
#pragma once
#include <memory>
#include <string>

#include "bench/coprocess.h"
#include "bench/store.h"

namespace thermocline::bench {

/// The server's process: `PROGRAM --grpc-store SOCKET`, until its standard input ends. Returns its
/// exit code.
int RunGrpcStreamServer(const std::string& socket);

/// Owner: borrows `buffers`; ends the server in its destructor.
absl::StatusOr<std::unique_ptr<Store>> StartGrpcStream(const Buffers& buffers,
                                                       const std::string& socket);

}  // namespace thermocline::bench
