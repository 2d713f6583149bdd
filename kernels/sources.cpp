/** Tells which sources this library is made of. Shared by both libraries. */
#include "sources.h"

#include <cstdio>

#include "atomloss.h"

al_status al_sources(char* text, int64_t capacity) {
  snprintf(text, static_cast<size_t>(capacity), "%s", AL_SOURCES);
  return AL_OK;
}
