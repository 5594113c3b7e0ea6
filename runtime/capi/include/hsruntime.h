/* hsruntime: pictures from a bundle, in plain C. SPDX-License-Identifier: Apache-2.0
 *
 * Every function may be called from any thread. Calls on one session queue, in order. Strings are UTF-8, but for paths,
 * which are the system's bytes. Zero in a field stands for the bundle's own value, so a struct may start as all zeros
 * with its struct_size: a field that a later version adds is zero to an older caller, and a caller that is newer than
 * the library is refused only where it uses a field that the library does not know.
 */
#ifndef HSRUNTIME_H
#define HSRUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "hsruntime_dlpack.h"

#if defined(HSR_BUILDING)
#define HSR_API __attribute__((visibility("default")))
#else
#define HSR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define HSR_VERSION "0.1.0"
/* Changes when a program must be compiled anew; the library's SOVERSION. */
#define HSR_ABI_VERSION 2

typedef enum hsr_status {
    HSR_OK = 0,
    HSR_ERROR_ARGUMENT = 1, /* a pointer or struct_size that cannot be, or a call from a session's own callback */
    HSR_ERROR_PYTHON = 2,   /* no libpython, or one without hsruntime */
    HSR_ERROR_BUNDLE = 3,   /* missing, broken, incomplete, too new */
    HSR_ERROR_REQUEST = 4,  /* a size, schedule, prompt, tensor... that the bundle cannot meet */
    HSR_ERROR_BACKEND = 5,  /* the backend's own library is missing, or refuses an engine */
    HSR_ERROR_DEVICE = 6,   /* the device failed */
    HSR_ERROR_MEMORY = 7,   /* the device has no room */
    HSR_CANCELLED = 8,      /* on_step asked for it */
    HSR_ERROR_OTHER = 9,    /* another error that the message says how to mend */
    HSR_ERROR_INTERNAL = 10 /* a bug; the message names the exception */
} hsr_status;

/* An open bundle. */
typedef struct hsr_session hsr_session;

enum {
    HSR_OPEN_NO_HASHES = 1,      /* skip checksums, not sizes */
    HSR_OPEN_NO_GRAPHS = 2,      /* GPUs: do not replay steps as CUDA graphs */
    HSR_OPEN_TWO_STREAMS = 4,    /* GPUs: small may run beside large's region step */
    HSR_OPEN_TEXT_ON_DEMAND = 8  /* text encoders are open only while they encode */
};

typedef struct hsr_open_options {
    size_t struct_size;
    /* The interpreter whose packages hold hsruntime, such as a virtual environment's bin/python. Ignored where the
     * process runs an interpreter already. NULL: $HSRUNTIME_PYTHON, the environment that holds this library, or what
     * the library was configured with; in this order. */
    const char *python;
    /* That interpreter's libpython; NULL: the interpreter is asked. */
    const char *python_library;
    int32_t threads; /* for CPUs; 0: all cores */
    uint32_t flags;  /* HSR_OPEN_... */
    double memory_cap_mb;
    int32_t vae_tile; /* pixels; 0: pictures are decoded whole */
    const char *identity; /* NULL: any bundle; else of the only one that is opened, as `hsexport inspect` shows it */
    const char *device;   /* NULL: the backend's first; else one of those that `hsexport inspect` lists */
    const char *adapters; /* LoRAs for every picture, "style.safetensors:0.8", several with commas between; NULL: none */
    const char *adapter_folder; /* of LoRAs that a request's lora may name; NULL: none */
    double adapter_cap_mb; /* MiB of weights that engines with adapters may take */
} hsr_open_options;

typedef struct hsr_progress {
    size_t struct_size;
    int32_t step; /* from 1 */
    int32_t steps;
    const char *mode; /* valid during the call */
} hsr_progress;

/* Called after each step, in the thread that called hsr_generate. Nonzero cancels: no further step begins. It must not
 * throw, nor call into the same session. */
typedef int (*hsr_step_callback)(void *user, const hsr_progress *progress);

/* One tensor of text embeddings, by the name that hsr_describe has for it under "text". */
typedef struct hsr_embedding {
    const char *name;
    const DLTensor *tensor; /* (G, ...) */
} hsr_embedding;

/* The bytes of a PNG, JPEG or WebP; data NULL for none. */
typedef struct hsr_file {
    const void *data;
    size_t size;
} hsr_file;

/* Everything it points at is borrowed for the call. Tensors are float32, on the CPU, contiguous. */
typedef struct hsr_request {
    size_t struct_size;
    const char *const *prompts; /* one picture each */
    size_t prompt_count;
    const char *const *negative_prompts;
    size_t negative_prompt_count; /* 0, 1 for all, or one for each prompt */
    const uint64_t *seeds;
    size_t seed_count; /* 0 is as one seed 0; 1: picture i uses seeds[0] + i; or one for each picture */
    int32_t width;     /* pixels */
    int32_t height;
    int32_t steps;         /* of a preset */
    double guidance_scale; /* 1 switches guidance off */
    const char *schedule;  /* a preset's name, or such as "large:10,hybrid:10,small:8" */
    /* Instead of prompts: all that the text encoders make of them, under guidance rows of negative prompts first (G = 2B),
     * else G = B. */
    const hsr_embedding *embeddings;
    size_t embedding_count;
    const DLTensor *latents; /* (B, C, h, w) instead of seeded noise */
    hsr_step_callback on_step;
    void *user; /* handed to on_step */
    const char *const *prompt_2s; /* what the second text encoder reads in place of prompts; "" reads the prompt */
    size_t prompt_2_count;        /* 0, 1 for all, or one for each prompt */
    const char *const *prompt_3s;
    size_t prompt_3_count;
    const char *lora; /* adapters of adapter_folder by name, "style:0.8,ink"; NULL: those of hsr_open_options */
    hsr_file image;       /* what all of the pictures begin from; width and height are its own by default */
    hsr_file mask;        /* white where the image is drawn anew; elsewhere it keeps its pixels */
    hsr_file region_mask; /* white where large refines, in place of the schedule's own choice */
    double strength;      /* share of the steps that is drawn anew over the image, up to 1; 0: as ever */
    double mask_blur;     /* pixels over which what is drawn fades in, inwards from the mask's edge */
    hsr_file reference;   /* a picture to draw after, or to change as the prompt says, where the bundle takes some */
    hsr_file reference_2;
    hsr_file reference_3;
    hsr_file reference_4;
} hsr_request;

/* Tensors lie on the CPU and are not copied. To keep one, set its field to NULL and call its deleter when done, from any
 * thread; the session may be closed by then. */
typedef struct hsr_result {
    size_t struct_size;
    DLManagedTensor *images;  /* (B, H, W, 3) uint8 */
    DLManagedTensor *latents; /* (B, C, h, w) float32, as the loop left them for the VAE */
    DLManagedTensor *region;  /* (B, N) uint8, 1 where large refined; NULL if the schedule has no region */
    const char *schedule;     /* as it ran */
    double seconds;           /* text, loop and decoding */
    double loop_seconds;
    int32_t grid_height; /* in tokens: N = grid_height * grid_width */
    int32_t grid_width;
    const char *warnings; /* what was not taken quite as it was given, a line each; "" for nothing */
} hsr_result;

typedef struct hsr_named_tensor {
    const char *name;
    DLManagedTensor *tensor; /* (G, ...) float32 */
} hsr_named_tensor;

typedef struct hsr_embeddings {
    size_t struct_size;
    size_t count;
    hsr_named_tensor *tensors;
} hsr_embeddings;

/* The library's own HSR_ABI_VERSION and HSR_VERSION. */
HSR_API uint32_t hsr_abi_version(void);
HSR_API const char *hsr_version(void);

/* What the last call in this thread that failed had to say, one line; "" if none has. Valid until the next failure. */
HSR_API const char *hsr_last_error(void);

/* Such as "HSR_ERROR_BUNDLE". */
HSR_API const char *hsr_status_name(hsr_status status);

/* Opens a bundle; options may be NULL. The first call starts Python where the process has none: no signal handlers, and
 * it stays until the process ends. Python sets the process's LC_CTYPE from the environment. */
HSR_API hsr_status hsr_open(const char *path, const hsr_open_options *options, hsr_session **session);

/* Waits for calls under way, then frees everything. NULL is allowed. No call may begin on the session any more. */
HSR_API hsr_status hsr_close(hsr_session *session);

/* Sizes, limits, defaults and engines as JSON; valid until the session is closed. */
HSR_API hsr_status hsr_describe(hsr_session *session, const char **json);

/* Makes pictures. *result is NULL unless HSR_OK. */
HSR_API hsr_status hsr_generate(hsr_session *session, const hsr_request *request, hsr_result **result);

/* What the text encoders make of a request's prompts, ready to be a request's embeddings; other fields than the
 * prompts, negative prompts, guidance_scale and lora are not looked at. */
HSR_API hsr_status hsr_encode(hsr_session *session, const hsr_request *request, hsr_embeddings **embeddings);

/* Free what is left in them; NULL is allowed. */
HSR_API void hsr_result_free(hsr_result *result);
HSR_API void hsr_embeddings_free(hsr_embeddings *embeddings);

#ifdef __cplusplus
}
#endif

#endif
