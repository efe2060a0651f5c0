// One row's attention to its keys, as a block of threads does it in one pass: groups of lanes that span a
// key's columns take keys in turn and keep a running softmax (Milakov and Gimelshein 2018); the block brings
// them together at its end. Keys and their names can be read before the query is there.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <t5zero/backend/backend.hpp>
#include <t5zero/backend/cuda/kernels/element.cuh>
#include <t5zero/backend/cuda/kernels/relative_bias.cuh>
#include <t5zero/backend/cuda/kernels/softmax.cuh>
#include <t5zero/core/error.hpp>

namespace t5zero::cuda::detail {

/// Threads of a block.
inline constexpr int attending_threads = 256;

/// Lanes: of the group that takes a key, 16 bytes of its columns each. Keys: that a group has under way at a
/// time. LastIsLate: the last key has a place of its own, since it may come later than the others.
template <element T, int Lanes, int Keys, bool LastIsLate>
class attending_row {
 public:
  static constexpr int unit = 16 / static_cast<int>(sizeof(T));
  static constexpr int columns = Lanes * unit;
  static constexpr int warps = attending_threads / warp_size;
  /// In shared memory: what the warps have found.
  struct exchange {
    float2 softmax[warps];  ///< maximum and total
    __align__(16) float sums[warps][columns];
  };

  __device__ attending_row(const decode_attention_inputs<T>& in, int head, int row)
      : in_(in),
        row_(row),
        lane_(static_cast<int>(threadIdx.x) % Lanes),
        group_(static_cast<int>(threadIdx.x) / Lanes),
        inside_(lane_ * unit < static_cast<int>(in.d_kv)),
        own_columns_(head * in.d_kv + (inside_ ? lane_ * unit : 0)) {}

  /// Of the row's columns, the first of this thread.
  [[nodiscard]] __device__ int column() const { return lane_ * unit; }
  /// Is there this column?
  [[nodiscard]] __device__ bool inside() const { return inside_; }
  /// The same among all heads' columns.
  [[nodiscard]] __device__ index_t own_columns() const { return own_columns_; }

  /// Starts to read the first keys; all but the last if that one comes late. They come from the L2, so that
  /// it may be before the wait for the grid in front: the first-level cache may hold what was there before
  /// kernels that this one has not waited for.
  __device__ void begin() {
    const auto max_count = static_cast<int>(in_.keys.max_count);
    const bool has_table = in_.keys.table != nullptr;
    first_key_ = has_table ? 0 : __ldcg(in_.keys.first + row_);
    // Names of keys are read before it is known how many count: they are there up to max_count.
    if (max_count > 0) find_keys(0);
    count_ = in_.keys.counts == nullptr ? max_count : static_cast<int>(__ldcg(in_.keys.counts + row_));
    early_count_ = LastIsLate ? max(0, count_ - 1) : count_;
    read_keys(0);
    has_last_ = LastIsLate && group_ == 0 && count_ > 0;
    if (has_last_) last_ = name_of(count_ - 1);
  }
  __device__ void read_last() {
    static_assert(LastIsLate);
    read_key(Keys, last_, has_last_);
  }
  /// The same, from shared memory: the row's columns.
  __device__ void take_last(const float* key, const float* value) {
    static_assert(LastIsLate);
    if (!has_last_ || !inside_) return;
#pragma unroll
    for (int c = 0; c < unit; ++c) {
      keys_[Keys].values[c] = from_float<T>(key[column() + c]);
      values_[Keys].values[c] = from_float<T>(value[column() + c]);
    }
  }

  /// query: this thread's columns, zeros beyond the row's, times log2(e). bias: by distance, in shared
  /// memory, times log2(e), up to `reach`; null: none.
  __device__ void attend(const float (&query)[unit], const float* bias, int reach) {
    for (int first = 0; first == 0 ? count_ > 0 : first < early_count_; first += groups * Keys) {
      if (first > 0) read_keys(first);
      if (first + groups * Keys < early_count_) find_keys(first + groups * Keys);
      float scores[places];
      float next = softmax_.maximum;
#pragma unroll
      for (int i = 0; i < places; ++i) {
        const int j = i < Keys ? first + group_ + i * groups : count_ - 1;
        const bool counts = i < Keys ? j < early_count_ : has_last_ && first == 0;
        float dot = 0.0F;
#pragma unroll
        for (int c = 0; c < unit; ++c) dot += query[c] * to_float(keys_[i].values[c]);
#pragma unroll
        for (int offset = Lanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(all_lanes, dot, offset);
        if (bias != nullptr) dot += bias[max(0, min(count_ - 1 - j, reach))];
        scores[i] = counts ? dot : -INFINITY;
        next = fmaxf(next, scores[i]);
      }
      softmax_.rescale(next);
#pragma unroll
      for (int i = 0; i < places; ++i) {
        const float p = next == -INFINITY ? 0.0F : power_of_two(scores[i] - next);
        softmax_.total += p;
#pragma unroll
        for (int c = 0; c < unit; ++c) softmax_.sums[c] += p * to_float(values_[i].values[c]);
      }
    }
  }

  /// The row's context, by one thread for each of its columns' units. All threads of the block call it.
  __device__ void store(exchange& shared, const matrix_view<T>& context) {
    // Groups of a warp, then warps.
#pragma unroll
    for (int offset = Lanes; offset < warp_size; offset *= 2) {
      softmax_.rescale(fmaxf(softmax_.maximum, __shfl_xor_sync(all_lanes, softmax_.maximum, offset)));
      softmax_.total += __shfl_xor_sync(all_lanes, softmax_.total, offset);
#pragma unroll
      for (float& sum : softmax_.sums) sum += __shfl_xor_sync(all_lanes, sum, offset);
    }
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    if (static_cast<int>(threadIdx.x) % warp_size < Lanes) {
      if (lane_ == 0) shared.softmax[warp] = float2{softmax_.maximum, softmax_.total};
      store_pack(shared.sums[warp] + column(), softmax_.sums);
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= Lanes || !inside_) return;
    float maximum = -INFINITY;
#pragma unroll
    for (int w = 0; w < warps; ++w) maximum = fmaxf(maximum, shared.softmax[w].x);
    float total = 0.0F;
    float sums[unit] = {};
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      const float factor = maximum == -INFINITY ? 0.0F : power_of_two(shared.softmax[w].x - maximum);
      total += shared.softmax[w].y * factor;
      float part[unit];
      load_pack(shared.sums[w] + column(), part);
#pragma unroll
      for (int c = 0; c < unit; ++c) sums[c] += part[c] * factor;
    }
    const float inverse = total > 0.0F ? 1.0F / total : 0.0F;
#pragma unroll
    for (float& sum : sums) sum *= inverse;
    store_pack(context.data + row_ * context.stride + own_columns_, sums);
  }

 private:
  static constexpr int groups = attending_threads / Lanes;
  static constexpr int places = Keys + (LastIsLate ? 1 : 0);

  [[nodiscard]] __device__ std::uint32_t name_of(int j) const {
    return static_cast<std::uint32_t>(
        in_.keys.table != nullptr ? __ldcg(in_.keys.table + row_ * in_.keys.stride + j) : first_key_ + j);
  }
  __device__ void find_keys(int first) {
    const auto max_count = static_cast<int>(in_.keys.max_count);
#pragma unroll
    for (int i = 0; i < Keys; ++i) names_[i] = name_of(min(first + group_ + i * groups, max_count - 1));
  }
  // Keys that do not count are zeros and weigh nothing: branches would keep others from being under way.
  [[nodiscard]] __device__ pack<T, unit> load(const matrix_view<const T>& from, std::uint32_t key,
                                              bool counts) const {
    const T* const place =
        from.data + static_cast<index_t>(std::uint64_t{key} * static_cast<std::uint32_t>(from.stride)) +
        own_columns_;
    pack<T, unit> result{};
    if (counts) result = std::bit_cast<pack<T, unit>>(__ldcg(reinterpret_cast<const uint4*>(place)));
    return result;
  }
  __device__ void read_key(int i, std::uint32_t key, bool counts) {
    keys_[i] = load(in_.key, key, counts);
    values_[i] = load(in_.value, key, counts);
  }
  __device__ void read_keys(int first) {
#pragma unroll
    for (int i = 0; i < Keys; ++i) read_key(i, names_[i], first + group_ + i * groups < early_count_);
  }

  const decode_attention_inputs<T>& in_;
  index_t row_;
  int lane_;
  int group_;
  bool inside_;
  index_t own_columns_;
  index_t first_key_ = 0;
  int count_ = 0;
  int early_count_ = 0;
  bool has_last_ = false;
  std::uint32_t last_ = 0;
  std::uint32_t names_[Keys] = {};
  pack<T, unit> keys_[places] = {};
  pack<T, unit> values_[places] = {};
  running_softmax<unit> softmax_;
};

/// The bias by distance that attend() takes: where buckets begin, and its bytes of shared memory; none
/// without a bias.
struct bias_by_distance {
  relative_buckets buckets;
  index_t bytes = 0;

  template <element T>
  [[nodiscard]] static bias_by_distance of(const decode_attention_inputs<T>& in) {
    bias_by_distance result;
    if (in.relative_bias == nullptr) return result;
    result.buckets = find_relative_buckets(/*bidirectional=*/false, in.n_buckets, in.max_distance);
    result.bytes = index_t{result.buckets.reach() + 1} * 4;
    return result;
  }
};
/// A head's bias of distances 0 to buckets.reach(), times log2(e). All threads of the block call it, and meet
/// at a barrier before they attend.
template <element T>
__device__ void fill_bias_by_distance(const decode_attention_inputs<T>& in, index_t head,
                                      const relative_buckets& buckets, float* to) {
  for (int d = static_cast<int>(threadIdx.x); d <= buckets.reach(); d += attending_threads)
    to[d] = to_float(in.relative_bias[buckets.distance_bucket(d) * in.n_heads + head]) * log2_e;
}

/// Calls use(integral_constant<int, lanes of a group>): those that span 64 columns, or 128.
template <element T, class Use>
void with_lanes(index_t d_kv, const Use& use) {
  constexpr int lanes = 64 * static_cast<int>(sizeof(T)) / 16;
  if (d_kv <= 64)
    use(std::integral_constant<int, lanes>{});
  else
    use(std::integral_constant<int, 2 * lanes>{});
}
/// Keys that a group has under way in rows of more than `long_row` keys; in others half of them, as each
/// costs instructions, there or not.
template <element T>
inline constexpr int many_keys = 32 * static_cast<int>(sizeof(T)) / 16;
inline constexpr index_t long_row = 256;

template <class T>
void check_cache_rows(const matrix_view<T>& view, index_t cols) {
  require(view.cols == cols && (view.rows == 0 || (view.stride * static_cast<index_t>(sizeof(T)) % 16 == 0 &&
                                                   reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0)),
          "cuda: matrices of a generation's attention are [rows, n_heads * d_kv], rows aligned to 16 bytes");
}
/// Throws contract_error for what attending_row does not take.
template <element T>
void check_attending(const decode_attention_inputs<T>& in, const matrix_view<T>& context) {
  const index_t inner_dim = in.n_heads * in.d_kv;
  require(in.d_kv > 0 && in.d_kv <= 128 && in.d_kv % 8 == 0,
          "cuda: a generation's attention: d_kv is a multiple of 8, at most 128");
  check_cache_rows(in.key, inner_dim);
  check_cache_rows(in.value, inner_dim);
  check_cache_rows(context, inner_dim);
  constexpr auto most = index_t{std::numeric_limits<std::uint32_t>::max()};
  require(in.key.rows <= most && in.key.stride <= most && in.value.stride <= most && in.n_heads <= 65535,
          "cuda: a generation's attention: a cache of fewer than 2^32 rows, strides below that, and at most "
          "65535 heads");
  require(in.relative_bias == nullptr || in.max_distance <= 4096,
          "cuda: a generation's attention: a max_distance of at most 4096");
}

}  // namespace t5zero::cuda::detail
