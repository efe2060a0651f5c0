// The plan of a run, from the installed headers alone.
#include <iostream>

#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/policy/model_size.hpp>

#include "t5_tiny.hpp"

int main() {
  static_assert(t5zero::parameter_count<t5zero::t5_small>() == 60'506'624);
  std::cout << mine::t5_tiny::name << ": " << t5zero::parameter_count<mine::t5_tiny>() << " parameters\n";
}
