/** Tells which sources this library is made of. Shared by both libraries. */
#include "defined/sources.h"

#include <cstdio>

#include "atomloss.h"

namespace {

/** In one piece, so that it can be found in the file as well. */
const char kText[] = "atomloss sources " AL_SOURCES;

}  // namespace

al_status al_sources(char* text, int64_t capacity) {
  static_cast<void>(snprintf(text, static_cast<size_t>(capacity), "%s",
                             kText + sizeof "atomloss sources"));
  return AL_OK;
}
