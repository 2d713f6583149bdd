#include "fiber.h"

#include <cstdint>
#include <cstring>

/* The registers that a function must keep are left on the old stack and taken
   from the new one; where to return to is there as well. */
#if defined(__x86_64__)
constexpr int kRegisters = 6, kReturn = 6;
asm(R"(
.globl cuda_platform_switch_stack
.hidden cuda_platform_switch_stack
.type cuda_platform_switch_stack, @function
cuda_platform_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_platform_switch_stack, .-cuda_platform_switch_stack
)");
#elif defined(__aarch64__)
constexpr int kRegisters = 20, kReturn = 11; /* x19 … x30, d8 … d15 */
asm(R"(
.globl cuda_platform_switch_stack
.hidden cuda_platform_switch_stack
.type cuda_platform_switch_stack, %function
cuda_platform_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_platform_switch_stack, .-cuda_platform_switch_stack
)");
#else
#error "the stand-in switches stacks on x86-64 and aarch64"
#endif

namespace cuda_platform {

void* new_stack(char* end, void (*function)()) {
  // Aligned as a call leaves it.
  auto* const top = reinterpret_cast<uint64_t*>(end) - 8;
  uint64_t* const stack = top - kRegisters;
  memset(stack, 0, sizeof(uint64_t) * (kRegisters + 2));
  stack[kReturn] = reinterpret_cast<uint64_t>(function);
  return stack;
}

}  // namespace cuda_platform
