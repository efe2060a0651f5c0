// All of t5zero that needs no backend and no library: policies, the parameter table, plans, the model, the
// optimizer's rules, the trainer. Add t5zero/cpu.hpp for something to run on.
#pragma once

#include <t5zero/comm/self.hpp>
#include <t5zero/core/config.hpp>
#include <t5zero/core/error.hpp>
#include <t5zero/model/t5.hpp>
#include <t5zero/optim/adamw.hpp>
#include <t5zero/optim/loss_scaler.hpp>
#include <t5zero/optim/lr_schedule.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/plan/parameter_table.hpp>
#include <t5zero/policy/model_size.hpp>
#include <t5zero/policy/precision.hpp>
#include <t5zero/policy/zero_stage.hpp>
#include <t5zero/tensor/batch_view.hpp>
#include <t5zero/train/run.hpp>
#include <t5zero/train/trainer.hpp>
