#include "session.h"

#include <memory>

#include "convert.h"
#include "errors.h"
#include "interpreter.h"
#include "structs.h"

namespace hsr {

Turn::Turn(hsr_session &session) : session_(session) {
    const WithoutGil waiting;
    std::unique_lock<std::mutex> lock(session_.guard);
    if (session_.caller == std::this_thread::get_id())
        throw Failure{HSR_ERROR_ARGUMENT, "a session was called from its own callback; call it afterwards"};
    const uint64_t mine = session_.next++;
    session_.moved.wait(lock, [&] { return session_.serving == mine; });
    session_.caller = std::this_thread::get_id();
}

Turn::~Turn() {
    const std::lock_guard<std::mutex> lock(session_.guard);  // held for moments only, never while waiting for the GIL
    ++session_.serving;
    session_.caller = std::thread::id();
    session_.moved.notify_all();
}

namespace {

Ref open_arguments(const char *path, const hsr_open_options &options) {
    const auto on = [&](uint32_t flag) { return truth(options.flags & flag); };
    Options asked;
    asked.with("device", bytes(options.device))
        .with("threads", number(options.threads))
        .with("hashes", truth(!(options.flags & HSR_OPEN_NO_HASHES)))
        .with("graphs", truth(!(options.flags & HSR_OPEN_NO_GRAPHS)))
        .with("two_streams", on(HSR_OPEN_TWO_STREAMS))
        .with("text_on_demand", on(HSR_OPEN_TEXT_ON_DEMAND))
        .with("memory_cap_mb", real(options.memory_cap_mb))
        .with("vae_tile", number(options.vae_tile))
        .with("identity", bytes(options.identity))
        .with("adapters", bytes(options.adapters))
        .with("adapter_folder", bytes(options.adapter_folder))
        .with("adapter_cap_mb", real(options.adapter_cap_mb));
    Ref where = bytes(path), pairs = asked.pairs();
    return tuple({where.release(), pairs.release()});
}

Ref just(hsr_session &session) {
    py.Py_IncRef(session.object);
    return tuple({session.object});
}

constexpr uint32_t kKnownFlags =
    HSR_OPEN_NO_HASHES | HSR_OPEN_NO_GRAPHS | HSR_OPEN_TWO_STREAMS | HSR_OPEN_TEXT_ON_DEMAND;

}  // namespace
}  // namespace hsr

using hsr::Failure;
using hsr::Gil;
using hsr::Turn;

extern "C" {

hsr_status hsr_open(const char *path, const hsr_open_options *options, hsr_session **session) {
    return hsr::guarded([&] {
        if (!path || !session) throw Failure{HSR_ERROR_ARGUMENT, "path or session is NULL"};
        *session = nullptr;
        hsr_open_options known = {};
        if (options) known = hsr::known_part(options, "hsr_open_options");
        if (known.flags & ~hsr::kKnownFlags)
            throw Failure{HSR_ERROR_ARGUMENT, "flags has bits that no option stands for"};
        hsr::start_python(known);
        const Gil gil;
        auto opened = std::make_unique<hsr_session>();
        hsr::Ref object = hsr::call_embedded("open_session", hsr::open_arguments(path, known));
        hsr::Ref arguments = hsr::tuple({object.get()});
        hsr::py.Py_IncRef(object.get());
        const hsr::Ref facts = hsr::call_embedded("describe", std::move(arguments));
        opened->description = hsr::py.PyBytes_AsString(facts.get());
        opened->object = object.release();
        *session = opened.release();
    });
}

hsr_status hsr_close(hsr_session *session) {
    if (!session) return HSR_OK;
    const hsr_status status = hsr::guarded([&] {
        const Gil gil;
        const Turn turn(*session);
        const hsr::Ref owned(session->object);
        hsr::Ref arguments = hsr::just(*session);
        session->object = nullptr;
        hsr::call_embedded("close", std::move(arguments));
    });
    if (status != HSR_ERROR_ARGUMENT) delete session;  // its own callback asked: the call under way still needs it
    return status;
}

hsr_status hsr_describe(hsr_session *session, const char **json) {
    return hsr::guarded([&] {
        if (!session || !json) throw Failure{HSR_ERROR_ARGUMENT, "session or json is NULL"};
        *json = session->description.c_str();
    });
}
}
