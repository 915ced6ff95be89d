// SPDX-License-Identifier: Apache-2.0
// The package: what CANN's graph engine calls when it meets the operators. Only here do its types and the
// library's (graph.h, run.h) meet. A refused call is an entry in CANN's log, with the message, and
// GRAPH_FAILED; nothing is launched then.
//
// TAPFIELD_DETERMINISTIC=1 in the environment asks for the deterministic gradient.
#include <acl/acl.h>
#include <graph/custom_op.h>

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "ascend/graph.h"
#include "ascend/run.h"

namespace tapfield::ascend {
namespace {

// Runs what may throw.
template <class Run>
ge::graphStatus guarded(const char* op, const Run& run) {
  try {
    run();
    return ge::GRAPH_SUCCESS;
  } catch (const std::exception& e) {
    aclAppLog(ACL_ERROR, op, __FILE__, __LINE__, "%s", e.what());
    return ge::GRAPH_FAILED;
  }
}

template <class T>
T& required(T* p, const char* what) {
  if (!p) throw std::runtime_error(std::string("the graph engine gave no ") + what);
  return *p;
}

// ------ Their words to ours

DType dtype_of(ge::DataType t) {
  switch (t) {
    case ge::DT_FLOAT16: return DType::float16;
    case ge::DT_BF16: return DType::bfloat16;
    case ge::DT_FLOAT: return DType::float32;
    default: return static_cast<DType>(-1);  // refused by name
  }
}
ge::DataType dtype_of(DType t) {
  return t == DType::float16 ? ge::DT_FLOAT16 : t == DType::bfloat16 ? ge::DT_BF16 : ge::DT_FLOAT;
}

Ints shape_of(const gert::Shape& s) {
  std::int64_t axes[Ints::capacity] = {};
  for (std::size_t i = 0; i < s.GetDimNum() && i < Ints::capacity; ++i) axes[i] = s.GetDim(i);
  return {axes, static_cast<std::int64_t>(s.GetDimNum())};
}
void set_shape(gert::Shape& s, const Ints& axes) {
  s.SetDimNum(static_cast<std::size_t>(axes.size()));
  for (std::int64_t i = 0; i < axes.size(); ++i) s.SetDim(static_cast<std::size_t>(i), axes[i]);
}

// In the order of the prototypes.
NodeAttributes attributes_of(const gert::RuntimeAttrs* attrs) {
  const gert::RuntimeAttrs& a = required(attrs, "attributes");
  const auto list = [&](std::size_t i, const char* name) {
    const auto& v = required(a.GetListInt(i), name);
    return Ints(v.GetData(), static_cast<std::int64_t>(v.GetSize()));
  };
  NodeAttributes r;
  r.strides = list(0, "strides"), r.pads = list(1, "pads"), r.ksize = list(2, "ksize");
  r.dilations = list(3, "dilations"), r.data_format = a.GetStr(4);
  r.deformable_groups = required(a.GetInt(5), "deformable_groups");
  r.modulated = required(a.GetBool(6), "modulated");
  return r;
}

Tensor tensor_of(const gert::Tensor* t, const char* name) {
  const gert::Tensor& tensor = required(t, name);
  return Tensor(tensor.GetAddr(), dtype_of(tensor.GetDataType()), shape_of(tensor.GetStorageShape()));
}

// ------ Execution

// Output i, in memory of the device that the graph engine frees.
Tensor output(gert::EagerOpExecutionContext& context, std::size_t i, const char* name, const Ints& shape,
              DType dtype, const gert::Tensor& like) {
  gert::StorageShape both = like.GetShape();
  set_shape(both.MutableOriginShape(), shape), set_shape(both.MutableStorageShape(), shape);
  gert::Tensor& t = required(context.MallocOutputTensor(i, both, like.GetFormat(), dtype_of(dtype)), name);
  return Tensor(t.GetAddr(), dtype, shape);
}

// What the graph says of output i, where its input has this type.
DType output_dtype(const gert::EagerOpExecutionContext& context, std::size_t i, const char* name,
                   DType input) {
  return infer_dtype(input, dtype_of(required(context.GetOutputDesc(i), name).GetDataType()));
}

std::int64_t vector_cores() {
  std::int32_t device = 0;
  std::int64_t cores = 0;
  if (aclrtGetDevice(&device) != ACL_SUCCESS ||
      aclrtGetDeviceInfo(static_cast<std::uint32_t>(device), ACL_DEV_ATTR_VECTOR_CORE_NUM, &cores) !=
          ACL_SUCCESS ||
      cores < 1)
    throw std::runtime_error("the device does not say how many vector cores it has");
  return cores;
}

bool is_deterministic() {
  const char* asked = std::getenv("TAPFIELD_DETERMINISTIC");
  return asked && std::string_view(asked) == "1";
}

void launch(gert::EagerOpExecutionContext& context, const Problem& p) {
  if (!p.n) return;
  const Device device{vector_cores(), context.GetStream(), is_deterministic()};
  const std::size_t bytes = scratch_bytes(p);
  char* scratch = static_cast<char*>(bytes ? context.MallocWorkSpace(bytes) : nullptr);
  if (bytes) required(scratch, "workspace");
#if TAPFIELD_NPU_ARCH == 3510
  run_simt(p, device, scratch);
#else
  run_vector(p, device, scratch);
#endif
}

}  // namespace
}  // namespace tapfield::ascend

namespace ge {
namespace {

namespace ascend = tapfield::ascend;

template <class Context>
tapfield::Ints input_shape(Context& context, std::size_t i) {
  return ascend::shape_of(ascend::required(context.GetInputShape(i), "input shape"));
}

void infer_dtype(gert::InferDataTypeContext& context, std::size_t output, std::size_t input) {
  const auto dtype = ascend::infer_dtype(ascend::dtype_of(context.GetInputDataType(input)),
                                         ascend::dtype_of(context.GetOutputDataType(output)));
  context.SetOutputDataType(output, ascend::dtype_of(dtype));
}

}  // namespace

class DeformableOffsets : public EagerExecuteOp, public ShapeInferOp {
 public:
  graphStatus InferShape(gert::InferShapeContext* context) override {
    return ascend::guarded("DeformableOffsets", [&] {
      ascend::set_shape(ascend::required(context->GetOutputShape(0), "y"),
                        ascend::infer_y(input_shape(*context, 0), input_shape(*context, 1),
                                        ascend::attributes_of(context->GetAttrs())));
    });
  }

  graphStatus InferDataType(gert::InferDataTypeContext* context) override {
    return context->SetOutputDataType(0, context->GetInputDataType(0));
  }

  graphStatus Execute(gert::EagerOpExecutionContext* context) override {
    return ascend::guarded("DeformableOffsets", [&] {
      const gert::Tensor* input = context->GetInputTensor(0);
      const tapfield::Tensor x = ascend::tensor_of(input, "x"),
                             offsets = ascend::tensor_of(context->GetInputTensor(1), "offsets");
      const auto attributes = ascend::attributes_of(context->GetAttrs());
      const tapfield::Tensor y = ascend::output(
          *context, 0, "y", ascend::infer_y(x.shape, offsets.shape, attributes), x.dtype, *input);
      ascend::launch(*context, ascend::forward_call(x, offsets, y, attributes));
    });
  }
};
REG_AUTO_MAPPING_OP(DeformableOffsets);

class DeformableOffsetsGrad : public EagerExecuteOp, public ShapeInferOp {
 public:
  graphStatus InferShape(gert::InferShapeContext* context) override {
    return ascend::guarded("DeformableOffsetsGrad", [&] {
      const ascend::GradShapes shapes =
          ascend::infer_grad(input_shape(*context, 0), input_shape(*context, 1), input_shape(*context, 2),
                             ascend::attributes_of(context->GetAttrs()));
      ascend::set_shape(ascend::required(context->GetOutputShape(0), "grad_x"), shapes.grad_x);
      ascend::set_shape(ascend::required(context->GetOutputShape(1), "grad_offsets"), shapes.grad_offsets);
    });
  }

  graphStatus InferDataType(gert::InferDataTypeContext* context) override {
    infer_dtype(*context, 0, 1);
    infer_dtype(*context, 1, 2);
    return GRAPH_SUCCESS;
  }

  graphStatus Execute(gert::EagerOpExecutionContext* context) override {
    return ascend::guarded("DeformableOffsetsGrad", [&] {
      const gert::Tensor *x_input = context->GetInputTensor(1), *offsets_input = context->GetInputTensor(2);
      const tapfield::Tensor grad = ascend::tensor_of(context->GetInputTensor(0), "grad"),
                             x = ascend::tensor_of(x_input, "x"),
                             offsets = ascend::tensor_of(offsets_input, "offsets");
      const auto attributes = ascend::attributes_of(context->GetAttrs());
      const ascend::GradShapes shapes = ascend::infer_grad(grad.shape, x.shape, offsets.shape, attributes);
      const tapfield::Tensor grad_x =
          ascend::output(*context, 0, "grad_x", shapes.grad_x,
                         ascend::output_dtype(*context, 0, "grad_x", x.dtype), *x_input);
      const tapfield::Tensor grad_offsets =
          ascend::output(*context, 1, "grad_offsets", shapes.grad_offsets,
                         ascend::output_dtype(*context, 1, "grad_offsets", offsets.dtype), *offsets_input);
      ascend::launch(*context, ascend::grad_call(grad, x, offsets, grad_x, grad_offsets, attributes));
    });
  }
};
REG_AUTO_MAPPING_OP(DeformableOffsetsGrad);

}  // namespace ge
