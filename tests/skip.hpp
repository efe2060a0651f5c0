// Tests that cannot run here say so: Catch2 2.13 has no SKIP.
#pragma once

/// Prints why and lets the program end with exit code 4, which ctest reports as "Skipped". Return after it.
void skip_test(const char* why);
