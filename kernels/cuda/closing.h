/**
 * Closings that go on when the call that began them has returned: the caller is
 * an event loop, and peers or a GPU may take their time. The process waits for
 * them when it ends, since what peers have yet to receive depends on them.
 */
#ifndef ATOMLOSS_CLOSING_H
#define ATOMLOSS_CLOSING_H

namespace atomloss {

/** To be called by whoever starts a closing, in a thread that has used CUDA. */
void begin_closing();

/** To be called when it is over. */
void end_closing();

}  // namespace atomloss

#endif /* ATOMLOSS_CLOSING_H */
