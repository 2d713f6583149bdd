/**
 * The losses that a user has defined: none. A build with some has another file
 * in this one's place; see ffi/loss_source.ts.
 */
#define AL_NEW_LOSSES(X)
