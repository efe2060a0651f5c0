// t5zero with the CPU backend.
#pragma once

#include <t5zero/backend/cpu/backend.hpp>
#include <t5zero/t5zero.hpp>
