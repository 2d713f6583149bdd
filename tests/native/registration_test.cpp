/** A loss that is not the library's, registered as a user's library does. */
#include <cstring>

#include "cpu/loss_kernels.h"
#include "library_test.h"
#include "on_device.h"

namespace atomloss {
namespace {

/** The fourth power of the error. */
struct Quartic : ElementLoss {
  static constexpr const char* name = "quartic";
  template <class T>
  static T value(T p, T t, T, const Parameters<T>&) {
    return (p - t) * (p - t) * (p - t) * (p - t);
  }
  template <class T>
  static T grad(T p, T t, T, const Parameters<T>&) {
    return T(4) * (p - t) * (p - t) * (p - t);
  }
};

}  // namespace
}  // namespace atomloss

#undef AL_NEW_LOSSES
#define AL_NEW_LOSSES(X) X(Quartic)
#include "defined/register_losses.h"

namespace native {

void test_registration() {
  int32_t loss = -1, kind = -1;
  fails(al_loss_find("quartic", &loss, &kind), AL_INVALID_ARGUMENT,
        "no loss 'quartic'", "a loss that nobody has registered");
  for (int i = 0; i < 2; ++i)
    succeeds(atomloss::register_new_losses(), "register_losses, again too");
  succeeds(al_loss_find("quartic", &loss, &kind), "al_loss_find");
  check(kind == AL_PER_ELEMENT && loss >= 7, "quartic is loss %d", loss);

  const double pred[] = {1, 2}, target[] = {-1, 2.5};
  double grad[] = {0, 0}, out[] = {0, 0};
  Device device;
  al_loss_result result = {};
  al_loss_task task = {};
  task.pred = pred;
  task.target = target;
  task.grad = grad;
  task.result = &result;
  task.coefficient = 0.5;
  task.group_count = 1;
  task.rows = 2;
  task.cols = 1;
  task.loss = loss;
  task.dtype = task.value_dtype = AL_FLOAT64;
  succeeds(al_loss_reduce(device, 1, &task, nullptr), "al_loss_reduce");
  check(result.value == 8.03125 && grad[0] == 16 && grad[1] == -0.25,
        "quartic is %g", result.value);
  succeeds(al_loss_forward(device, loss, AL_FLOAT64, pred, target, nullptr,
                           AL_INT32, 2, 1, task.parameters, out),
           "al_loss_forward");
  check(out[0] == 16 && out[1] == 0.0625, "quartic is %g, %g", out[0], out[1]);

  // Another loss of the name is refused.
  static const atomloss::LossKernels other = {};
  const atomloss::LossEntry entry = {"mse",
                                     {AL_PER_ELEMENT, false, 0},
                                     false,
                                     {&other, &other, &other, &other}};
  fails(atomloss::register_losses(&entry, 1), AL_INVALID_ARGUMENT,
        "there already", "a second mse");
}

}  // namespace native
