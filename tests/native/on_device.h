/** A device and memory of it, for as long as their block of code lasts. */
#ifndef NATIVE_ON_DEVICE_H
#define NATIVE_ON_DEVICE_H

#include "check.h"

namespace native {

class Device {
 public:
  Device() { succeeds(al_device_open(0, &device_), "al_device_open"); }
  ~Device() { close(); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  void close() {
    if (device_) succeeds(al_device_close(device_), "al_device_close");
    device_ = nullptr;
  }
  operator al_device*() const { return device_; }

 private:
  al_device* device_ = nullptr;
};

class OnDevice {
 public:
  OnDevice(al_device* device, int64_t bytes) : device_(device) {
    succeeds(al_alloc(device, bytes, &memory_), "al_alloc");
  }
  ~OnDevice() { succeeds(al_free(device_, memory_), "al_free"); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  operator void*() const { return memory_; }

 private:
  al_device* device_;
  void* memory_ = nullptr;
};

}  // namespace native

#endif /* NATIVE_ON_DEVICE_H */
