/** The losses by name: the same in both libraries. */
#include <cstring>

#include "loss_ops.h"
#include "status.h"

al_status al_loss_find(const char* name, int32_t* loss, int32_t* kind) {
  int32_t number = 0;
#define AL_MATCH(Loss)                           \
  if (strcmp(name, atomloss::Loss::name) == 0) { \
    *loss = number;                              \
    *kind = atomloss::Loss::kind;                \
    return AL_OK;                                \
  }                                              \
  ++number;
  AL_LOSSES(AL_MATCH)
#undef AL_MATCH
  return al_fail(AL_INVALID_ARGUMENT, "the library has no loss '%s'", name);
}
