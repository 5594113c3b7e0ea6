// A service around libhsruntime, as small as can be: several threads ask one bundle for pictures and write PNGs.
//
//     service BUNDLE [--out DIR] [--threads 4] [--pictures 16] [--prompt TEXT]... [--schedule S] [--seed 0]
//             [--image FILE] [--mask FILE] [--strength 0.6] [--cpu-threads 0] [--cancel-after STEPS]
#include <hsruntime.h>
#include <png.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

struct Options {
    std::string bundle, out = ".", schedule, image, mask;  // image and mask: files' bytes
    double strength = 0;
    std::vector<std::string> prompts;
    int threads = 4, pictures = 16, cpu_threads = 0, cancel_after = 0;
    uint64_t seed = 0;
};

// What the threads share.
struct Service {
    Options options;
    hsr_session *session = nullptr;
    std::atomic<int> next{0}, cancelled{0}, steps_after_cancel{0};
    std::atomic<long> warm_kib{0};
    std::mutex guard;
    std::vector<double> latencies_ms;
    std::string failure;
};

// A number of the service and of the steps that one picture has taken.
struct Picture {
    Service *service;
    int steps = 0;
};

static double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

static long resident_kib() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
    return 0;
}

static std::string bytes_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read");
    return std::string(std::istreambuf_iterator<char>(file), {});
}

static Options parsed(int count, char **words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word.rfind("--", 0) != 0) {
            options.bundle = word;
            continue;
        }
        if (++i == count) throw std::runtime_error(word + " wants a value");
        const std::string value = words[i];
        if (word == "--out") options.out = value;
        else if (word == "--prompt") options.prompts.push_back(value);
        else if (word == "--schedule") options.schedule = value;
        else if (word == "--image") options.image = bytes_of(value);
        else if (word == "--mask") options.mask = bytes_of(value);
        else if (word == "--strength") options.strength = std::stod(value);
        else if (word == "--seed") options.seed = std::stoull(value);
        else if (word == "--threads") options.threads = std::stoi(value);
        else if (word == "--pictures") options.pictures = std::stoi(value);
        else if (word == "--cpu-threads") options.cpu_threads = std::stoi(value);
        else if (word == "--cancel-after") options.cancel_after = std::stoi(value);
        else throw std::runtime_error("unknown option " + word);
    }
    if (options.bundle.empty()) throw std::runtime_error("name a bundle");
    if (options.prompts.empty()) options.prompts = {"red apple", "blue car", "green tree", "yellow star"};
    return options;
}

static void check(hsr_status status) {
    if (status != HSR_OK) throw std::runtime_error(std::string(hsr_status_name(status)) + ": " + hsr_last_error());
}

static void write_png(const std::string &path, const DLTensor &images) {
    png_image header = {};
    header.version = PNG_IMAGE_VERSION;
    header.height = static_cast<png_uint_32>(images.shape[1]);
    header.width = static_cast<png_uint_32>(images.shape[2]);
    header.format = PNG_FORMAT_RGB;
    const char *pixels = static_cast<const char *>(images.data) + images.byte_offset;
    if (!png_image_write_to_file(&header, path.c_str(), 0, pixels, 0, nullptr))
        throw std::runtime_error(path + ": " + header.message);
}

static int on_step(void *user, const hsr_progress *) {
    auto *picture = static_cast<Picture *>(user);
    const int after = picture->service->options.cancel_after;
    if (after && ++picture->steps > after) ++picture->service->steps_after_cancel;
    return after && picture->steps >= after;
}

static void make_picture(Service &service, int number) {
    const Options &options = service.options;
    const char *prompt = options.prompts[static_cast<size_t>(number) % options.prompts.size()].c_str();
    const uint64_t seed = options.seed + static_cast<uint64_t>(number);
    Picture picture = {&service};
    hsr_request request = {};
    request.struct_size = sizeof request;
    request.prompts = &prompt;
    request.prompt_count = 1;
    request.seeds = &seed;
    request.seed_count = 1;
    request.schedule = options.schedule.empty() ? nullptr : options.schedule.c_str();
    if (!options.image.empty()) request.image = {options.image.data(), options.image.size()};
    if (!options.mask.empty()) request.mask = {options.mask.data(), options.mask.size()};
    request.strength = options.strength;
    request.on_step = on_step;
    request.user = &picture;
    const Clock::time_point start = Clock::now();
    hsr_result *result = nullptr;
    const hsr_status status = hsr_generate(service.session, &request, &result);
    if (status == HSR_CANCELLED) {
        ++service.cancelled;
        return;
    }
    check(status);
    const double took = ms_since(start);
    write_png(options.out + "/picture-" + std::to_string(number) + ".png", result->images->dl_tensor);
    hsr_result_free(result);
    const std::lock_guard<std::mutex> lock(service.guard);
    service.latencies_ms.push_back(took);
}

static void work(Service &service) try {
    for (int number; (number = service.next++) < service.options.pictures;) {
        make_picture(service, number);
        if (number == service.options.pictures / 4) service.warm_kib = resident_kib();
    }
} catch (const std::exception &error) {
    const std::lock_guard<std::mutex> lock(service.guard);
    service.failure = error.what();
}

static double percentile(const std::vector<double> &sorted, double share) {
    return sorted[static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size()))) - 1];
}

static void report(Service &service, double opened_ms, double worked_ms, long start_kib) {
    std::vector<double> &times = service.latencies_ms;
    std::sort(times.begin(), times.end());
    std::printf("opened in %.0f ms; %zu pictures, %d cancelled (%d steps later)\n", opened_ms, times.size(),
                service.cancelled.load(), service.steps_after_cancel.load());
    if (!times.empty())
        std::printf("latency p50 %.1f ms, p90 %.1f ms, p99 %.1f ms; %.2f pictures a second\n", percentile(times, 0.5),
                    percentile(times, 0.9), percentile(times, 0.99), 1000 * static_cast<double>(times.size()) / worked_ms);
    std::printf("resident %ld KiB at start, %ld KiB warm, %ld KiB at the end\n", start_kib, service.warm_kib.load(),
                resident_kib());
}

int main(int count, char **words) try {
    Service service;
    service.options = parsed(count, words);
    const long start_kib = resident_kib();
    hsr_open_options options = {};
    options.struct_size = sizeof options;
    options.threads = service.options.cpu_threads;
    Clock::time_point start = Clock::now();
    check(hsr_open(service.options.bundle.c_str(), &options, &service.session));
    const double opened_ms = ms_since(start);
    start = Clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < service.options.threads; ++i) threads.emplace_back(work, std::ref(service));
    for (std::thread &thread : threads) thread.join();
    const double worked_ms = ms_since(start);
    if (!service.failure.empty()) throw std::runtime_error(service.failure);
    report(service, opened_ms, worked_ms, start_kib);
    check(hsr_close(service.session));
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "service: %s\n", error.what());
    return 1;
}
