#include <memory>
#include <string>
#include <vector>

#include "convert.h"
#include "errors.h"
#include "session.h"
#include "structs.h"

namespace hsr {
namespace {

const char *const kContext = "hsr_request";

// Python's side of on_step: (step, steps, mode) -> whether to go on. The GIL is released while the caller's code runs.
PyObject *tell(PyObject *self, PyObject *arguments) {
    const auto *request = static_cast<const hsr_request *>(py.PyCapsule_GetPointer(self, kContext));
    if (!request) return nullptr;
    hsr_progress progress = {};
    progress.struct_size = sizeof progress;
    progress.step = static_cast<int32_t>(py.PyLong_AsLong(py.PyTuple_GetItem(arguments, 0)));
    progress.steps = static_cast<int32_t>(py.PyLong_AsLong(py.PyTuple_GetItem(arguments, 1)));
    progress.mode = py.PyBytes_AsString(py.PyTuple_GetItem(arguments, 2));
    int cancels;
    {
        const WithoutGil waiting;
        cancels = request->on_step(request->user, &progress);
    }
    return py.PyBool_FromLong(!cancels);
}

Ref callback(const hsr_request &request) {
    if (!request.on_step) return none();
    static PyMethodDef method = {"tell", tell, kMethVarargs, nullptr};
    const Ref context = checked(py.PyCapsule_New(const_cast<hsr_request *>(&request), kContext, nullptr));
    return checked(py.PyCFunction_NewEx(&method, context.get(), nullptr));
}

Ref object_of(hsr_session &session) {
    py.Py_IncRef(session.object);
    return Ref(session.object);
}

// What `encode` looks at.
Options text_options(const hsr_request &request) {
    Options asked;
    asked.with("prompt", byte_strings(request.prompts, request.prompt_count, "prompts"))
        .with("prompt_2", byte_strings(request.prompt_2s, request.prompt_2_count, "prompt_2s"))
        .with("prompt_3", byte_strings(request.prompt_3s, request.prompt_3_count, "prompt_3s"))
        .with("negative_prompt",
              byte_strings(request.negative_prompts, request.negative_prompt_count, "negative_prompts"))
        .with("guidance_scale", real(request.guidance_scale))
        .with("lora", bytes(request.lora));
    return asked;
}

// Pairs of a name and what it names.
Ref embeddings_of(const hsr_request &request) {
    if (request.embedding_count && !request.embeddings)
        throw Failure{HSR_ERROR_ARGUMENT, "embeddings is NULL, its count is not 0"};
    if (request.embedding_count > 4096)
        throw Failure{HSR_ERROR_ARGUMENT, "embeddings' count is " + std::to_string(request.embedding_count)};
    Ref all = checked(py.PyTuple_New(static_cast<std::ptrdiff_t>(request.embedding_count)));
    for (size_t i = 0; i < request.embedding_count; ++i) {
        const hsr_embedding &each = request.embeddings[i];
        if (!each.name || !each.tensor)
            throw Failure{HSR_ERROR_ARGUMENT, "embeddings[" + std::to_string(i) + "] has no name or no tensor"};
        Ref name = bytes(each.name), tensor = borrowed(each.tensor, each.name);
        py.PyTuple_SetItem(all.get(), static_cast<std::ptrdiff_t>(i),
                           tuple({name.release(), tensor.release()}).release());
    }
    return all;
}

Ref arguments_of(hsr_session &session, const hsr_request &request) {
    // Each is made before the tuple: a conversion that throws must not leak those before it.
    Options asked = text_options(request);
    asked.with("seed", seeds(request.seeds, request.seed_count))
        .with("schedule", bytes(request.schedule))
        .with("steps", number(request.steps))
        .with("width", number(request.width))
        .with("height", number(request.height))
        .with("image", file(request.image, "image"))
        .with("strength", real(request.strength))
        .with("mask", file(request.mask, "mask"))
        .with("mask_blur", real(request.mask_blur))
        .with("region_mask", file(request.region_mask, "region_mask"))
        .with("reference", file(request.reference, "reference"))
        .with("reference_2", file(request.reference_2, "reference_2"))
        .with("reference_3", file(request.reference_3, "reference_3"))
        .with("reference_4", file(request.reference_4, "reference_4"));
    Ref self = object_of(session), pairs = asked.pairs();
    Ref embeddings = embeddings_of(request), latents = borrowed(request.latents, "latents"), on_step = callback(request);
    return tuple({self.release(), pairs.release(), embeddings.release(), latents.release(), on_step.release()});
}

// Embeddings, and what they point at.
struct OwnedEmbeddings {
    hsr_embeddings embeddings = {};
    std::vector<std::string> names;
    std::vector<hsr_named_tensor> tensors;
};

// A result and the texts it points at.
struct OwnedResult {
    hsr_result result = {};
    std::string schedule, warnings;
};

void release(DLManagedTensor *&tensor) {
    if (tensor && tensor->deleter) tensor->deleter(tensor);
    tensor = nullptr;
}

struct FreeEmbeddings {
    void operator()(OwnedEmbeddings *owned) const { hsr_embeddings_free(&owned->embeddings); }
};

std::unique_ptr<OwnedEmbeddings, FreeEmbeddings> embeddings_in(const Ref &answer) {
    std::unique_ptr<OwnedEmbeddings, FreeEmbeddings> owned(new OwnedEmbeddings);
    const std::ptrdiff_t count = py.PyTuple_Size(answer.get());
    owned->names.reserve(count);  // what names point at must not move
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        PyObject *pair = py.PyTuple_GetItem(answer.get(), i);
        owned->names.emplace_back(py.PyBytes_AsString(py.PyTuple_GetItem(pair, 0)));
        owned->tensors.push_back({owned->names.back().c_str(), tensor_of(py.PyTuple_GetItem(pair, 1))});
        owned->embeddings.count = owned->tensors.size();
        owned->embeddings.tensors = owned->tensors.data();
    }
    owned->embeddings.struct_size = sizeof owned->embeddings;
    return owned;
}

struct FreeResult {
    void operator()(OwnedResult *owned) const { hsr_result_free(&owned->result); }
};

std::unique_ptr<OwnedResult, FreeResult> result_of(const Ref &answer) {
    const auto item = [&](int place) { return py.PyTuple_GetItem(answer.get(), place); };
    std::unique_ptr<OwnedResult, FreeResult> owned(new OwnedResult);
    hsr_result &result = owned->result;
    result.struct_size = sizeof result;
    result.images = tensor_of(item(0));
    result.latents = tensor_of(item(1));
    result.region = tensor_of(item(2));
    owned->schedule = py.PyBytes_AsString(item(3));
    result.schedule = owned->schedule.c_str();
    result.seconds = py.PyFloat_AsDouble(item(4));
    result.loop_seconds = py.PyFloat_AsDouble(item(5));
    result.grid_height = static_cast<int32_t>(py.PyLong_AsLong(item(6)));
    result.grid_width = static_cast<int32_t>(py.PyLong_AsLong(item(7)));
    owned->warnings = py.PyBytes_AsString(item(8));
    result.warnings = owned->warnings.c_str();
    return owned;
}

}  // namespace
}  // namespace hsr

using hsr::Failure;
using hsr::Gil;
using hsr::Turn;

extern "C" {

hsr_status hsr_generate(hsr_session *session, const hsr_request *request, hsr_result **result) {
    return hsr::guarded([&] {
        if (!session || !result) throw Failure{HSR_ERROR_ARGUMENT, "session or result is NULL"};
        *result = nullptr;
        const hsr_request known = hsr::known_part(request, "hsr_request");
        const Gil gil;
        const Turn turn(*session);
        const hsr::Ref answer = hsr::call_embedded("generate", hsr::arguments_of(*session, known));
        *result = &hsr::result_of(answer).release()->result;
    });
}

hsr_status hsr_encode(hsr_session *session, const hsr_request *request, hsr_embeddings **embeddings) {
    return hsr::guarded([&] {
        if (!session || !embeddings) throw Failure{HSR_ERROR_ARGUMENT, "session or embeddings is NULL"};
        *embeddings = nullptr;
        const hsr_request known = hsr::known_part(request, "hsr_request");
        const Gil gil;
        const Turn turn(*session);
        hsr::Ref self = hsr::object_of(*session), pairs = hsr::text_options(known).pairs();
        const hsr::Ref answer = hsr::call_embedded("encode", hsr::tuple({self.release(), pairs.release()}));
        *embeddings = &hsr::embeddings_in(answer).release()->embeddings;
    });
}

void hsr_result_free(hsr_result *result) {
    if (!result) return;
    hsr::release(result->images);
    hsr::release(result->latents);
    hsr::release(result->region);
    delete reinterpret_cast<hsr::OwnedResult *>(result);  // its first member
}

void hsr_embeddings_free(hsr_embeddings *embeddings) {
    if (!embeddings) return;
    for (size_t i = 0; i < embeddings->count; ++i) hsr::release(embeddings->tensors[i].tensor);
    delete reinterpret_cast<hsr::OwnedEmbeddings *>(embeddings);  // its first member
}
}
