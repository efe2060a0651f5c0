#include <t5zero/train/python_repr.hpp>

#include <limits>

#include "catch.hpp"

TEST_CASE("floats print as in Python") {
  using t5zero::python_repr;
  CHECK(python_repr(3.0) == "3.0");
  CHECK(python_repr(0.0) == "0.0");
  CHECK(python_repr(-0.0) == "-0.0");
  CHECK(python_repr(0.1) == "0.1");
  CHECK(python_repr(1e-5) == "1e-05");
  CHECK(python_repr(4.9999e-5) == "4.9999e-05");
  CHECK(python_repr(0.0001) == "0.0001");
  CHECK(python_repr(0.00012345) == "0.00012345");
  CHECK(python_repr(1e15) == "1000000000000000.0");
  CHECK(python_repr(1e16) == "1e+16");
  CHECK(python_repr(123456789012345678.0) == "1.2345678901234568e+17");
  CHECK(python_repr(9007199254740993.0) == "9007199254740992.0");
  CHECK(python_repr(5e-324) == "5e-324");
  CHECK(python_repr(1.7976931348623157e308) == "1.7976931348623157e+308");
  CHECK(python_repr(std::numeric_limits<double>::quiet_NaN()) == "nan");
  CHECK(python_repr(-std::numeric_limits<double>::infinity()) == "-inf");
  CHECK(t5zero::python_json(std::numeric_limits<double>::infinity()) == "Infinity");
  CHECK(t5zero::python_json(std::numeric_limits<double>::quiet_NaN()) == "NaN");
}

TEST_CASE("rounding is correct from the binary value") {
  CHECK(t5zero::python_round(2.675, 2) == 2.67);
  CHECK(t5zero::python_round(0.5, 0) == 0.0);
  CHECK(t5zero::python_round(2.5, 0) == 2.0);
  CHECK(t5zero::python_round(1e300, 4) == 1e300);
  CHECK(t5zero::python_round(0.00005, 4) == 0.0001);
}
