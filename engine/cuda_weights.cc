#include "engine/cuda_weights.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/units.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/device.h"
#include "kernels/dequantize_weights.h"
#include "kernels/simt/numbers.h"

namespace thermocline {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint64_t kGrain = 8;               // numbers of 16 bytes, which the kernels take at once
constexpr uint64_t kStagedBytes = 16 * MiB;  // sent at once, as they are stored

/// Plans where every matrix lies first, then sends them as they are stored; they become f16 on the
/// device.
class Sender {
 public:
  explicit Sender(const ModelFile& model) : model_(model) {}

  /// Rows of a matrix, or (`rows` is 0) a vector.
  struct Part {
    std::string name;
    uint64_t rows;
  };

  /// A matrix of the parts' rows, each part's count rounded up to `row_grain` and each row to
  /// `stride` numbers. Sets `place` once all is sent.
  absl::Status Plan(const std::byte*& place, std::initializer_list<Part> parts, uint64_t columns,
                    uint64_t stride, uint64_t row_grain = 1) {
    places_.push_back({&place, bytes_});
    for (const auto& [name, rows] : parts) {
      TC_ASSIGN_OR_RETURN(const Tensor* const tensor, rows == 0
                                                          ? model_.Require(name, {columns})
                                                          : model_.Require(name, {rows, columns}));
      if (columns % BlockElements(tensor->type) != 0) {
        return absl::InvalidArgumentError(model_.path() + ": " + name + " ends inside a block");
      }
      jobs_.push_back({tensor, bytes_, stride});
      bytes_ += RoundUp(std::max<uint64_t>(rows, 1), row_grain) * stride * sizeof(Half);
    }
    bytes_ = RoundUp(bytes_, kAlignment);
    return absl::OkStatus();
  }

  absl::StatusOr<cuda::DeviceBuffer> SendAll() {
    TC_ASSIGN_OR_RETURN(cuda::DeviceBuffer memory, cuda::DeviceBuffer::Allocate(bytes_));
    TC_RETURN_IF_ERROR(Work(memory.data()));
    for (const auto& [place, offset] : places_) *place = memory.data() + offset;
    return memory;
  }

 private:
  struct Job {
    const Tensor* tensor;
    uint64_t offset;
    uint64_t stride;

    /// As stored, of `stride` numbers.
    uint64_t row_bytes() const {
      return stride / BlockElements(tensor->type) * BlockBytes(tensor->type);
    }
    uint64_t rows_at_once() const {
      return std::clamp<uint64_t>(kStagedBytes / row_bytes(), 1, tensor->rows());
    }
  };

  absl::Status Work(std::byte* memory) {
    uint64_t most = 0;
    for (const Job& job : jobs_) most = std::max(most, job.rows_at_once() * job.row_bytes());
    TC_ASSIGN_OR_RETURN(stored_, cuda::DeviceBuffer::Allocate(most));
    TC_ASSIGN_OR_RETURN(beyond_, cuda::DeviceBuffer::Allocate(jobs_.size() * sizeof(int32_t)));
    TC_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::Stream::Create());
    TC_RETURN_IF_ERROR(cuda::FillAsync(memory, 0, bytes_, stream.get()));
    TC_RETURN_IF_ERROR(cuda::FillAsync(beyond_.data(), 0, beyond_.bytes(), stream.get()));
    absl::Status sent;
    for (size_t i = 0; i < jobs_.size() && sent.ok(); ++i) sent = Send(i, memory, stream);
    std::vector<int32_t> beyond(jobs_.size());
    sent.Update(cuda::CopyAsync({.to = reinterpret_cast<std::byte*>(beyond.data()),
                                 .from = beyond_.data(),
                                 .bytes = beyond_.bytes()},
                                stream.get()));
    sent.Update(stream.Synchronize());  // always: what is read and written there is about to go
    TC_RETURN_IF_ERROR(sent);
    const auto found = std::find_if(beyond.begin(), beyond.end(), [](int32_t x) { return x != 0; });
    if (found == beyond.end()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        model_.path() + ": " + jobs_[static_cast<size_t>(found - beyond.begin())].tensor->name +
        " has a weight beyond f16; run it on the CPU");
  }

  absl::Status Send(size_t index, std::byte* memory, const cuda::Stream& stream) {
    const Job& job = jobs_[index];
    const Tensor& tensor = *job.tensor;
    for (uint64_t first = 0; first < tensor.rows(); first += job.rows_at_once()) {
      const uint64_t count = std::min(job.rows_at_once(), tensor.rows() - first);
      const std::byte* from = tensor.row(first).data();
      if (job.stride != tensor.columns()) {
        TC_RETURN_IF_ERROR(stream.Synchronize());  // the rows before have been read
        padded_.assign(count * job.row_bytes(), std::byte{0});
        for (uint64_t i = 0; i < count; ++i) {
          const std::span<const std::byte> row = tensor.row(first + i);
          std::memcpy(padded_.data() + i * job.row_bytes(), row.data(), row.size());
        }
        from = padded_.data();
      }
      TC_RETURN_IF_ERROR(cuda::CopyAsync(
          {.to = stored_.data(), .from = from, .bytes = count * job.row_bytes()}, stream.get()));
      TC_RETURN_IF_ERROR(cuda::LaunchStatus(
          LaunchDequantizeWeights({.out = memory + job.offset + first * job.stride * sizeof(Half),
                                   .stored = stored_.data(),
                                   .beyond = reinterpret_cast<int32_t*>(beyond_.data()) + index,
                                   .numbers = static_cast<int64_t>(count * job.stride),
                                   .stored_type = WeightTypeOf(tensor.type)},
                                  stream.get()),
          "DequantizeWeights"));
    }
    return absl::OkStatus();
  }

  const ModelFile& model_;
  std::vector<std::pair<const std::byte**, uint64_t>> places_;
  std::vector<Job> jobs_;
  uint64_t bytes_ = 0;
  cuda::DeviceBuffer stored_, beyond_;  // beyond: of each job, whether f16 is too small for it
  std::vector<std::byte> padded_;
};

absl::Status PlanLayer(Sender& sender, const ModelConfig& config, uint64_t ff, uint32_t index,
                       CudaWeights::Layer& layer) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const auto name = [&](const char* part) { return prefix + part + ".weight"; };
  const uint64_t width = config.embedding_width, q_width = uint64_t{config.heads} * config.head_dim;
  const uint64_t kv_width = uint64_t{config.kv_heads} * config.head_dim;
  const uint64_t ff_width = config.ff_width;
  TC_RETURN_IF_ERROR(sender.Plan(layer.attention_norm, {{name("attn_norm"), 0}}, width, width));
  TC_RETURN_IF_ERROR(sender.Plan(
      layer.qkv,
      {{name("attn_q"), q_width}, {name("attn_k"), kv_width}, {name("attn_v"), kv_width}}, width,
      width));
  TC_RETURN_IF_ERROR(sender.Plan(layer.output, {{name("attn_output"), width}}, q_width, q_width));
  TC_RETURN_IF_ERROR(sender.Plan(layer.ffn_norm, {{name("ffn_norm"), 0}}, width, width));
  TC_RETURN_IF_ERROR(sender.Plan(layer.gate_up,
                                 {{name("ffn_gate"), ff_width}, {name("ffn_up"), ff_width}}, width,
                                 width, kGrain));
  return sender.Plan(layer.down, {{name("ffn_down"), width}}, ff_width, ff);
}

}  // namespace

absl::StatusOr<CudaWeights> CudaWeights::Load(const ModelFile& model, const ModelConfig& config) {
  CudaWeights weights;
  const uint64_t width = config.embedding_width, ff = RoundUp(config.ff_width, kGrain);
  weights.ff = static_cast<int>(ff);
  weights.layers.resize(config.layers);
  Sender sender(model);
  TC_RETURN_IF_ERROR(
      sender.Plan(weights.embedding, {{"token_embd.weight", config.vocab}}, width, width));
  for (uint32_t i = 0; i < config.layers; ++i) {
    TC_RETURN_IF_ERROR(PlanLayer(sender, config, ff, i, weights.layers[i]));
  }
  TC_RETURN_IF_ERROR(sender.Plan(weights.output_norm, {{"output_norm.weight", 0}}, width, width));
  if (!config.tied_embeddings) {
    TC_RETURN_IF_ERROR(
        sender.Plan(weights.logits, {{"output.weight", config.vocab}}, width, width));
  }
  TC_ASSIGN_OR_RETURN(weights.memory, sender.SendAll());
  if (config.tied_embeddings) weights.logits = weights.embedding;
  return weights;
}

}  // namespace thermocline
