/** Instantiates the user's losses: what the compiler says here is about them.
 */
#include "loss_ops.h"

template <class Loss, class T>
void use() {
  if constexpr (Loss::kind == AL_PER_ROW) {
    static_cast<void>(Loss::value(T(1)) + Loss::slope(T(1)));
  } else {
    static_cast<void>(Loss::value(T(1), T(2), T(3)) +
                      Loss::grad(T(1), T(2), T(3)));
  }
}

#define AL_USE(Loss)                          \
  template void use<atomloss::Loss, float>(); \
  template void use<atomloss::Loss, double>();
AL_NEW_LOSSES(AL_USE)
