// A device of PyTorch's that the CPU computes for, so that code for GPUs can be run without one; pretended_device.py says how.
//
// Its tensors lie in the CPU's memory. An operator without a kernel here is the CPU's, on copies (at::native::cpu_fallback),
// after it was checked as a GPU would: no tensor of another device, no operator that the pretended maker has no kernel for.

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <set>

using namespace at;

namespace {

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

std::set<std::string> kernels;  // which the pretended maker has; empty: all
bool has_float64 = true;
py::object* on_wait = nullptr;  // called with the name of an operator for which a GPU would be waited for
thread_local bool falling_back = false;

void waits(const std::string& name) {
  if (on_wait && !falling_back) {
    py::gil_scoped_acquire lock;
    (*on_wait)(name);
  }
}

// Memory, and the one device with its one stream.

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = bytes ? std::malloc(bytes) : nullptr;
    return {memory, memory, &std::free, c10::Device(TYPE, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override { std::memcpy(target, source, bytes); }
} memory;
REGISTER_ALLOCATOR(TYPE, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return c10::Device(TYPE, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, getDevice()); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : PrivateUse1HooksInterface {
  at::Generator generator = at::detail::createCPUGenerator();
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return generator; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};

// The operators that every device has to have itself.

void check_type(std::optional<ScalarType> type) {
  TORCH_CHECK_TYPE(has_float64 || (type != kDouble && type != kComplexDouble), "the pretended device has no float64");
}

Tensor empty(IntArrayRef sizes, std::optional<ScalarType> type, std::optional<Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<MemoryFormat> format) {
  check_type(type);
  return at::detail::empty_generic(sizes, &memory, KEYS, type.value_or(kFloat), format);
}

Tensor empty_strided(IntArrayRef sizes, IntArrayRef strides, std::optional<ScalarType> type, std::optional<Layout>,
                     std::optional<Device>, std::optional<bool>) {
  check_type(type);
  return at::detail::empty_strided_generic(sizes, strides, &memory, KEYS, type.value_or(kFloat));
}

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& tensor) {
  auto storage = tensor.storage();
  c10::DataPtr data(storage.mutable_data(), new c10::Storage(storage),
                    [](void* held) { delete static_cast<c10::Storage*>(held); }, c10::Device(kCPU));
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), nullptr, false);
  auto found = at::detail::make_tensor<c10::TensorImpl>(std::move(shared), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                         tensor.dtype());
  auto* parts = found.unsafeGetTensorImpl();
  parts->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  found._set_conj(tensor.is_conj());
  found._set_neg(tensor.is_neg());
  return found;
}

Tensor copy_from(const Tensor& source, const Tensor& target, bool non_blocking) {
  bool from = source.device().type() == TYPE, to = target.device().type() == TYPE;
  if (!non_blocking && from != to && source.numel()) waits(from ? "copy to the CPU" : "copy from the CPU");
  (to ? on_cpu(target) : target).copy_(from ? on_cpu(source) : source);
  return target;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, true);
}

Scalar local_scalar(const Tensor& tensor) {
  waits("a number for Python");
  return at::_local_scalar_dense(on_cpu(tensor));
}

int64_t choose_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                         std::optional<double>, bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

void require_device(std::initializer_list<Tensor> tensors) {
  for (const auto& one : tensors) TORCH_CHECK(one.device().type() == TYPE, "a convolution of tensors of several devices");
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  bool has_bias = bias && bias->defined();
  require_device({input, weight, has_bias ? *bias : weight});
  auto found = at::convolution(on_cpu(input), on_cpu(weight), has_bias ? std::optional(on_cpu(*bias)) : std::nullopt, stride,
                               padding, dilation, transposed, output_padding, groups);
  return found.to(input.device());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  require_device({gradient, input, weight});
  std::vector<int64_t> bias{gradient.size(1)};
  auto found = at::convolution_backward(on_cpu(gradient), on_cpu(input), on_cpu(weight), bias, stride, padding, dilation,
                                        transposed, output_padding, groups, wanted);
  auto moved = [&](const Tensor& one) { return one.defined() ? one.to(input.device()) : one; };
  return {moved(std::get<0>(found)), moved(std::get<1>(found)), moved(std::get<2>(found))};
}

// All others.

const std::set<std::string> TAKE_INDICES_OF_THE_CPU{"aten::index.Tensor_out", "aten::index.Tensor", "aten::_index_put_impl_"};
const std::set<std::string> WAIT{"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_consecutive",
                                 "aten::equal", "aten::repeat_interleave.Tensor", "aten::bincount", "torchvision::nms"};

void fall_back(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  auto name = c10::toString(operation.operator_name());
  TORCH_CHECK_NOT_IMPLEMENTED(kernels.empty() || kernels.count(name), "the pretended device has no kernel for ", name);
  bool has_mask = false;
  std::string strangers;
  auto look = [&](const IValue& value, const std::string& argument) {
    if (!value.isTensor() || !value.toTensor().defined()) return;
    auto tensor = value.toTensor();
    if (tensor.device().type() != TYPE && tensor.dim() > 0) strangers += " " + argument;
    has_mask |= tensor.scalar_type() == kBool;
  };
  const auto& arguments = operation.schema().arguments();
  auto values = torch::jit::last(*stack, arguments.size());
  for (size_t place = 0; place < arguments.size(); ++place) {
    look(values[place], arguments[place].name());
    if (values[place].isList()) for (const auto& one : values[place].toListRef()) look(one, arguments[place].name());
  }
  bool indexes = TAKE_INDICES_OF_THE_CPU.count(name);
  TORCH_CHECK(strangers.empty() || indexes, name, " of tensors of several devices; not on the pretended one:", strangers);
  if (WAIT.count(name) || (indexes && has_mask)) waits(name);
  struct Falling {
    Falling() { falling_back = true; }
    ~Falling() { falling_back = false; }
  } falling;
  at::native::cpu_fallback(operation, stack);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", local_scalar);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("resize_", at::native::resize_);
  library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  library.impl("set_.source_Storage", at::native::set_);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
  library.impl("unfold", at::native::unfold);
  library.impl("_fused_sdp_choice", choose_attention);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>()); }

#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FLOAT32_SET_TYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FLOAT32_SET_TYPE)
  AT_FORALL_PROMOTE(PROMOTE)
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  module.def("restrict", [](std::set<std::string> names, bool float64) { kernels = std::move(names), has_float64 = float64; });
  module.def("call_on_wait", [](py::object callback) { on_wait = new py::object(std::move(callback)); });
}
