/** Instantiates the user's losses: what the compiler says here is about them.
 */
#include "loss_ops.h"

template <class Loss, class T>
void use() {
  const atomloss::Parameters<T> c({});
  if constexpr (Loss::kind == AL_PER_ROW) {
    typename Loss::template Row<T> row;
    row.add(0, T(1), T(2));
    row.differentiate(c, T(1));
    static_cast<void>(row.value(c) + row.grad(0, T(1), T(2)));
  } else {
    static_cast<void>(Loss::value(T(1), T(2), T(3), c) +
                      Loss::grad(T(1), T(2), T(3), c));
  }
}

#define AL_USE(Loss)                          \
  template void use<atomloss::Loss, float>(); \
  template void use<atomloss::Loss, double>();
AL_NEW_LOSSES(AL_USE)
