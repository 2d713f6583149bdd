/**
 * Which sources a library is made of: unknown here. A build has another file in
 * this one's place, with their hash; see ffi/build.ts.
 */
#define AL_SOURCES ""
