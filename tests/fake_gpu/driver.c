/* A driver that knows one GPU and can do nothing with it. PyTorch asks so much of it before it runs
   fake CUDA tensors forward and backward. CUDA's own headers are not in PyTorch's packages. */
#include <stddef.h>

/* The beginning of CUDA's cudaDeviceProp. */
struct properties {
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared_memory;
    int registers, warp;
    size_t pitch;
    int threads, thread_sizes[3], grid_sizes[3];
    size_t constants;
    int major, minor;
    size_t alignments[2];
    int overlaps, processors;
};

int cudaGetDeviceProperties(struct properties *found, int device) {
    found->memory = (size_t)80 << 30;
    found->warp = 32;
    found->major = 9;
    found->processors = 132;
    return 0;
}

int cudaGetDeviceCount(int *count) {
    *count = 1;
    return 0;
}

int cudaGetDevice(int *device) {
    *device = 0;
    return 0;
}

int cudaSetDevice(int device) { return 0; }

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = *greatest = 0;
    return 0;
}

int cudaStreamIsCapturing(void *stream, int *status) {
    *status = 0;
    return 0;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = *active = 0;
    return 0;
}
