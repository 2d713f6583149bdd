/**
 * The connections between the replicas of a group: a Gloo context that is a
 * full mesh, and says which of its connections are broken.
 *
 * Every rank opens one socket address per peer and publishes them; with the
 * addresses that the peers made for it, it connects to each (as
 * gloo::rendezvous::Context does with a store of its own).
 */
#ifndef ATOMLOSS_MESH_H
#define ATOMLOSS_MESH_H

#include <gloo/context.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

namespace atomloss {

class WatchedTransport;

class Mesh : public gloo::Context {
 public:
  /** Listens at an address of this host. */
  Mesh(int rank, int size, const char* address,
       std::chrono::milliseconds timeout);
  ~Mesh() override;
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  /** The bytes that a rank of so many publishes. */
  static int64_t blob_bytes(int size);

  /** Writes this rank's addresses, one for each peer. */
  void publish(char* blob);

  /** Connects to the address that each peer has for this rank: its blob is
   * `stride` bytes behind that of the peer before. */
  void connect(const char* blobs, int64_t stride);

  /** The peers that there is no connection to any more. */
  std::vector<int> lost();

 private:
  std::shared_ptr<WatchedTransport> transport_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_MESH_H */
