/** Written by ffi/loss_source.ts: losses from one line of C++ each. */
// clang-format off
namespace atomloss {

struct Defined_huber : ElementLoss {
  static constexpr const char* name = "huber";
  static constexpr bool of_difference = true;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    [[maybe_unused]] const T delta = _c[0];
    return static_cast<T>(
#line 1 "huber.value"
abs(d) < delta ? T(0.5) * d * d : delta * (abs(d) - T(0.5) * delta)
#line 18 "defined/defined_losses.h"
    );
  }
  template <class T>
  AL_HD static T grad([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    [[maybe_unused]] const T delta = _c[0];
    return static_cast<T>(
#line 1 "huber.grad"
max(min(d, delta), -delta)
#line 29 "defined/defined_losses.h"
    );
  }
};

struct Defined_smooth_l1 : ElementLoss {
  static constexpr const char* name = "smooth_l1";
  static constexpr bool of_difference = true;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    [[maybe_unused]] const T beta = _c[0];
    return static_cast<T>(
#line 1 "smooth_l1.value"
abs(d) < beta ? T(0.5) * d * d / beta : abs(d) - T(0.5) * beta
#line 46 "defined/defined_losses.h"
    );
  }
  template <class T>
  AL_HD static T grad([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    [[maybe_unused]] const T beta = _c[0];
    return static_cast<T>(
#line 1 "smooth_l1.grad"
d == T(0) ? T(0) : max(min(d / beta, T(1)), T(-1))
#line 57 "defined/defined_losses.h"
    );
  }
};

struct Defined_log_cosh : ElementLoss {
  static constexpr const char* name = "log_cosh";
  static constexpr bool of_difference = true;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    return static_cast<T>(
#line 1 "log_cosh.value"
abs(d) < T(1) ? log1p(T(2) * sinh(d / T(2)) * sinh(d / T(2))) : abs(d) + log1p(exp(T(-2) * abs(d))) - T(0.6931471805599453)
#line 73 "defined/defined_losses.h"
    );
  }
  template <class T>
  AL_HD static T grad([[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n, [[maybe_unused]] const Parameters<T>& _c) {
    using namespace loss_math;
    [[maybe_unused]] const T d = p - t;
    return static_cast<T>(
#line 1 "log_cosh.grad"
tanh(d)
#line 83 "defined/defined_losses.h"
    );
  }
};

}  // namespace atomloss

#define AL_DEFINED_LOSSES(X) X(Defined_huber) X(Defined_smooth_l1) X(Defined_log_cosh)
