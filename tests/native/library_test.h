/** The parts of the test, one in each file. */
#ifndef NATIVE_LIBRARY_TEST_H
#define NATIVE_LIBRARY_TEST_H

namespace native {

void test_half();
void test_device();
void test_dlpack();
void test_registration();
void test_losses();
void test_reduce();
void test_samples();
void test_passes();
void test_metrics();
void test_matmul();
void test_optimizers();
void test_threads();
void test_mesh();
void test_collectives();
void test_collectives_that_fail();
void test_recording();

}  // namespace native

#endif /* NATIVE_LIBRARY_TEST_H */
