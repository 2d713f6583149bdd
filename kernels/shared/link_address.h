/**
 * Addresses of IPv6 within one link (fe80::…) name the link by a number that
 * every host gives it for itself.
 */
#ifndef ATOMLOSS_LINK_ADDRESS_H
#define ATOMLOSS_LINK_ADDRESS_H

#include <netinet/in.h>
#include <string.h>

namespace atomloss {

/** Makes a peer's address, as the peer knows it, one of our own link. */
inline void use_own_link(const sockaddr_storage& self, sockaddr_storage* peer) {
  if (self.ss_family != AF_INET6 || peer->ss_family != AF_INET6) return;
  sockaddr_in6 ours, theirs;
  memcpy(&ours, &self, sizeof ours);
  memcpy(&theirs, peer, sizeof theirs);
  if (!IN6_IS_ADDR_LINKLOCAL(&theirs.sin6_addr)) return;
  theirs.sin6_scope_id = ours.sin6_scope_id;
  memcpy(peer, &theirs, sizeof theirs);
}

}  // namespace atomloss

#endif /* ATOMLOSS_LINK_ADDRESS_H */
