// training_report.html: one page without scripts or network that shows how a training went.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <t5zero/core/integers.hpp>
#include <t5zero/plan/memory_plan.hpp>
#include <t5zero/train/log_history.hpp>
#include <t5zero/train/python_repr.hpp>
#include <t5zero/train/report.hpp>

namespace t5zero {

/// A sentence of the evaluation or test data and what the model made of it.
struct sample_translation {
  std::string source;
  std::string reference;  ///< empty: unknown
  std::string hypothesis;
};

struct training_report {
  std::string title;                                          ///< e.g. the output directory
  std::string run;                                            ///< e.g. "t5-small, ZeRO-2, fp16, cpu"
  std::string source;                                         ///< where the weights came from
  std::vector<std::pair<std::string, std::string>> facts;     ///< headline figures: name, value
  std::vector<std::pair<std::string, std::string>> settings;  ///< options, in order
  memory_plan plan;
  bool has_loss_scale = false;
  log_history history;
  std::vector<sample_translation> samples;
};

namespace detail {

[[nodiscard]] inline std::string html_text(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

struct chart_point {
  double x = 0.0;
  double y = 0.0;
};

/// At most `most` points: means of neighbours, with the extremes of each group as a band of their own.
struct bucketed_curve {
  std::vector<chart_point> means;
  std::vector<chart_point> lows, highs;  ///< empty unless points were joined
};

[[nodiscard]] inline bucketed_curve bucketed(const std::vector<chart_point>& points, std::size_t most) {
  bucketed_curve result;
  const std::size_t group = (points.size() + most - 1) / most;
  if (group <= 1) {
    result.means = points;
    return result;
  }
  for (std::size_t first = 0; first < points.size(); first += group) {
    const std::size_t end = std::min(points.size(), first + group);
    chart_point mean;
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    for (std::size_t i = first; i < end; ++i) {
      mean.x += points[i].x;
      mean.y += points[i].y;
      low = std::min(low, points[i].y);
      high = std::max(high, points[i].y);
    }
    mean.x /= static_cast<double>(end - first);
    mean.y /= static_cast<double>(end - first);
    result.means.push_back(mean);
    result.lows.push_back({mean.x, low});
    result.highs.push_back({mean.x, high});
  }
  return result;
}

/// An exponential moving average, corrected for its start (as Adam's moments are).
[[nodiscard]] inline std::vector<chart_point> smoothed(const std::vector<chart_point>& points) {
  const double keep = 1.0 - 1.0 / std::max(1.0, std::min(50.0, static_cast<double>(points.size()) / 10.0));
  std::vector<chart_point> result;
  double sum = 0.0;
  double weight = 0.0;
  for (const chart_point& point : points) {
    sum = keep * sum + (1.0 - keep) * point.y;
    weight = keep * weight + (1.0 - keep);
    result.push_back({point.x, sum / weight});
  }
  return result;
}

[[nodiscard]] inline std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), std::abs(value) >= 1e4 && std::abs(value) < 1e9 ? "%.0f" : "%.4g", value);
  return text;
}

/// A step of 1, 2 or 5 times a power of ten that gives about four ticks.
[[nodiscard]] inline double tick_step(double range) {
  const double raw = range / 4.0;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10.0 * power;
}

/// One chart. Values that are not finite are left out; skipped updates are marked on the x axis.
class chart {
 public:
  chart(std::string title, std::string unit) : title_(std::move(title)), unit_(std::move(unit)) {}

  /// smooths: drawn faint, with a smoothed curve over it.
  void add(std::string name, const std::vector<chart_point>& points, bool smooths = false) {
    std::vector<chart_point> finite;
    for (const chart_point& point : points) {
      if (std::isfinite(point.y)) finite.push_back(point);
    }
    if (finite.empty()) return;
    curves_.push_back({std::move(name), std::move(finite), smooths});
  }
  void mark(double x) { marks_.push_back(x); }
  [[nodiscard]] bool empty() const { return curves_.empty(); }

  [[nodiscard]] std::string svg() const {
    if (curves_.empty()) return "";
    find_ranges();
    std::string text = "<figure><figcaption>" + html_text(title_) + "<span>" + html_text(unit_) +
                       "</span></figcaption><svg viewBox=\"0 0 640 260\" role=\"img\" aria-label=\"" +
                       html_text(title_) + "\">";
    const double step_y = tick_step(high_ - low_);
    for (double y = std::ceil(low_ / step_y) * step_y; y <= high_ + 1e-9 * step_y; y += step_y) {
      const std::string at = short_number(place_y(y));
      const std::string label = short_number(std::abs(y) < 1e-9 * step_y ? 0.0 : y);
      text += "<line class=\"grid\" x1=\"56\" x2=\"616\" y1=\"" + at + "\" y2=\"" + at +
              "\"/><text class=\"y\" x=\"50\" y=\"" + at + "\">" + label + "</text>";
    }
    const double step_x = std::max(1.0, tick_step(last_ - first_));
    for (double x = std::ceil(first_ / step_x) * step_x; x <= last_ + 1e-9; x += step_x) {
      text +=
          "<text class=\"x\" x=\"" + short_number(place_x(x)) + "\" y=\"252\">" + short_number(x) + "</text>";
    }
    for (const double x : marks_) {
      const std::string at = short_number(place_x(x));
      text += "<line class=\"skipped\" x1=\"" + at + "\" x2=\"" + at +
              "\" y1=\"228\" y2=\"236\"><title>skipped update " + short_number(x) + "</title></line>";
    }
    for (std::size_t i = 0; i < curves_.size(); ++i) text += curve_svg(curves_[i], i);
    return text + "</svg></figure>";
  }

 private:
  static constexpr std::size_t most_points = 500;
  struct curve {
    std::string name;
    std::vector<chart_point> points;
    bool smooths = false;
  };

  void find_ranges() const {
    low_ = std::numeric_limits<double>::infinity();
    high_ = -low_;
    first_ = low_;
    last_ = -low_;
    for (const curve& c : curves_) {
      for (const chart_point& p : c.points) {
        low_ = std::min(low_, p.y);
        high_ = std::max(high_, p.y);
        first_ = std::min(first_, p.x);
        last_ = std::max(last_, p.x);
      }
    }
    if (high_ - low_ < 1e-12 * std::max(1.0, std::abs(high_))) {
      const double around = high_ == 0.0 ? 1.0 : std::abs(high_) * 0.1;
      low_ -= around;
      high_ += around;
    }
    if (last_ <= first_) {
      first_ -= 0.5;
      last_ += 0.5;
    }
  }
  [[nodiscard]] double place_x(double x) const { return 56.0 + 560.0 * (x - first_) / (last_ - first_); }
  [[nodiscard]] double place_y(double y) const { return 232.0 - 220.0 * (y - low_) / (high_ - low_); }

  [[nodiscard]] std::string path_of(const std::vector<chart_point>& points) const {
    std::string text;
    for (const chart_point& p : points) {
      char pair[64];
      std::snprintf(pair, sizeof(pair), "%s%.1f %.1f", text.empty() ? "M" : "L", place_x(p.x), place_y(p.y));
      text += pair;
    }
    return text;
  }
  [[nodiscard]] std::string curve_svg(const curve& c, std::size_t index) const {
    const std::string kind = index == 0 ? "first" : "second";
    if (c.points.size() == 1) {
      return "<circle class=\"" + kind + "\" r=\"4\" cx=\"" + short_number(place_x(c.points[0].x)) +
             "\" cy=\"" + short_number(place_y(c.points[0].y)) + "\"><title>" + html_text(c.name) +
             "</title></circle>";
    }
    const bucketed_curve drawn = bucketed(c.points, most_points);
    std::string text;
    if (!drawn.lows.empty()) {
      std::vector<chart_point> band = drawn.highs;
      band.insert(band.end(), drawn.lows.rbegin(), drawn.lows.rend());
      text += "<path class=\"band " + kind + "\" d=\"" + path_of(band) + "Z\"/>";
    }
    text += "<path class=\"line " + kind + (c.smooths ? " faint" : "") + "\" d=\"" + path_of(drawn.means) +
            "\"><title>" + html_text(c.name) + "</title></path>";
    if (c.smooths) text += "<path class=\"line " + kind + "\" d=\"" + path_of(smoothed(drawn.means)) + "\"/>";
    return text;
  }

  std::string title_;
  std::string unit_;
  std::vector<curve> curves_;
  std::vector<double> marks_;
  mutable double low_ = 0.0, high_ = 1.0, first_ = 0.0, last_ = 1.0;
};

/// One point for each update that has it.
template <class Value>
[[nodiscard]] std::vector<chart_point> points_of(const log_history& history, const Value& value) {
  std::vector<chart_point> points;
  for (const update_record& update : history.updates)
    points.push_back({static_cast<double>(update.step), value(update)});
  return points;
}
[[nodiscard]] inline std::vector<chart_point> points_of_key(const log_history& history,
                                                            std::string_view key) {
  std::vector<chart_point> points;
  for (const log_entry& entry : history.entries) {
    for (const auto& [name, value] : entry.values) {
      if (name == key) points.push_back({static_cast<double>(entry.step), value});
    }
  }
  return points;
}

[[nodiscard]] inline std::string table_of(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::string text = "<table>";
  for (const auto& [name, value] : rows)
    text += "<tr><th>" + html_text(name) + "</th><td>" + html_text(value) + "</td></tr>";
  return text + "</table>";
}

[[nodiscard]] inline std::string memory_html(const memory_plan& plan) {
  std::string bar;
  std::vector<std::pair<std::string, std::string>> rows;
  int shade = 0;
  for (const plan_line& line : plan.lines()) {
    if (line.bytes == 0) continue;
    rows.emplace_back(std::string(line.name),
                      with_thousands(line.bytes) + " bytes (" + human_bytes(line.bytes) + ")");
    if (line.name == "total") continue;
    char part[160];
    std::snprintf(part, sizeof(part), "<i class=\"s%d\" style=\"flex:%.6f\" title=\"%s\"></i>", shade++ % 7,
                  static_cast<double>(line.bytes) / static_cast<double>(plan.total_bytes),
                  (html_text(line.name) + ": " + human_bytes(line.bytes)).c_str());
    bar += part;
  }
  return "<div class=\"bar\">" + bar + "</div>" + table_of(rows);
}

inline constexpr std::string_view report_style = R"(
:root{--text:#1c2330;--soft:#66708a;--page:#f6f7f9;--card:#fff;--grid:#e3e6ec;--first:#2f5fd0;--second:#d0702f;--bad:#c0392b}
@media(prefers-color-scheme:dark){:root{--text:#e4e8f0;--soft:#98a2b8;--page:#12151c;--card:#1b202a;--grid:#2c3340;--first:#7ba2ff;--second:#ffb070;--bad:#ff7b6b}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 18px 60px}h1{font-size:26px;margin:0 0 2px;overflow-wrap:anywhere}
h2{font-size:18px;margin:34px 0 12px}p.run{color:var(--soft);margin:0 0 20px}
.facts{display:flex;flex-wrap:wrap;gap:12px}.facts div{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:10px 16px;min-width:130px}
.facts b{display:block;font-size:20px;font-variant-numeric:tabular-nums}.facts span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:12px}
figcaption{font-weight:600;display:flex;justify-content:space-between}figcaption span{font-weight:400;color:var(--soft)}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--grid)}svg text{fill:var(--soft);font-size:12px}
text.y{text-anchor:end;dominant-baseline:middle}text.x{text-anchor:middle}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.first{stroke:var(--first)}.line.second{stroke:var(--second)}
.faint{opacity:.35;stroke-width:1.2}.band{stroke:none;opacity:.18}.band.first,circle.first{fill:var(--first)}.band.second,circle.second{fill:var(--second)}
.skipped{stroke:var(--bad);stroke-width:3}.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:8px 14px}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:5px 14px 5px 0;vertical-align:top;border-bottom:1px solid var(--grid);overflow-wrap:anywhere}
tr:last-child>*{border-bottom:0}th{font-weight:500;color:var(--soft);white-space:nowrap}td{font-variant-numeric:tabular-nums}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;margin-bottom:10px}
.s0{background:#2f5fd0}.s1{background:#5c86e6}.s2{background:#8aabf3}.s3{background:#d0702f}.s4{background:#e79c68}.s5{background:#5aa37c}.s6{background:#9a86c9}
.sample th{width:90px}.sample+.sample{margin-top:12px})";

}  // namespace detail

[[nodiscard]] inline std::string to_html(const training_report& report) {
  using detail::chart;
  using detail::html_text;
  const log_history& history = report.history;
  std::string text =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>" +
      html_text(report.title) + "</title><style>" + std::string(detail::report_style) +
      "</style></head><body><main>\n<h1>" + html_text(report.title) + "</h1><p class=\"run\">" +
      html_text(report.run) + "; weights from " + html_text(report.source) + "</p>\n<div class=\"facts\">";
  for (const auto& [name, value] : report.facts)
    text += "<div><b>" + html_text(value) + "</b><span>" + html_text(name) + "</span></div>";
  text += "</div>\n";

  std::vector<chart> charts;
  charts.emplace_back("Training loss", "by update");
  charts.back().add("loss", detail::points_of(history, [](const auto& u) { return u.loss; }), true);
  for (const update_record& update : history.updates) {
    if (update.skipped) charts.back().mark(static_cast<double>(update.step));
  }
  charts.emplace_back("Evaluation loss", "by update");
  charts.back().add("eval_loss", detail::points_of_key(history, "eval_loss"));
  charts.emplace_back("Evaluation BLEU", "by update");
  charts.back().add("eval_bleu", detail::points_of_key(history, "eval_bleu"));
  charts.emplace_back("Gradient norm", "before clipping");
  charts.back().add("grad_norm", detail::points_of(history, [](const auto& u) { return u.grad_norm; }), true);
  charts.emplace_back("Learning rate", "by update");
  charts.back().add("learning_rate",
                    detail::points_of(history, [](const auto& u) { return u.learning_rate; }));
  if (report.has_loss_scale) {
    charts.emplace_back("Loss scale", "log2");
    charts.back().add("loss_scale",
                      detail::points_of(history, [](const auto& u) { return std::log2(u.loss_scale); }));
  }
  charts.emplace_back("Throughput", "tokens a second");
  charts.back().add("tokens/s",
                    detail::points_of(history,
                                      [](const auto& u) {
                                        return u.seconds > 0.0 ? static_cast<double>(u.tokens) / u.seconds
                                                               : std::numeric_limits<double>::quiet_NaN();
                                      }),
                    true);
  std::string drawn;
  for (const chart& one : charts) drawn += one.svg();
  if (!drawn.empty()) text += "<h2>Curves</h2><div class=\"charts\">" + drawn + "</div>\n";

  if (!report.samples.empty()) text += "<h2>Sample translations</h2>\n";
  for (const sample_translation& sample : report.samples) {
    std::vector<std::pair<std::string, std::string>> rows = {{"Source", sample.source}};
    if (!sample.reference.empty()) rows.emplace_back("Reference", sample.reference);
    rows.emplace_back("Model", sample.hypothesis);
    text += "<div class=\"scroll sample\">" + detail::table_of(rows) + "</div>\n";
  }
  if (report.plan.total_bytes > 0)
    text += "<h2>Memory plan</h2><div class=\"scroll\">" + detail::memory_html(report.plan) + "</div>\n";
  if (!report.settings.empty())
    text += "<h2>Settings</h2><div class=\"scroll\">" + detail::table_of(report.settings) + "</div>\n";
  return text + "</main></body></html>\n";
}

}  // namespace t5zero
