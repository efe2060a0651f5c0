// A translator of the tests' tiny model, as a user builds one.
#include <t5zero/cpu.hpp>
#include <t5zero/translate.hpp>

#include "package/user/t5_tiny.hpp"

int main(int argc, char** argv) {
  return t5zero::translate<t5zero::run<mine::t5_tiny, t5zero::zero_0, t5zero::fp32, t5zero::cpu::backend>>(
      argc, argv);
}
