/* A TFLite delegate for tests: takes the RESHAPE and CONCATENATION operations of a model, hands them on to TFLite's own
 * kernels, and misbehaves as its options say. It accelerates nothing.
 *
 *   fail_at N      the Nth run returns an error
 *   hang_at N      the Nth run never returns
 *   hang_in WHERE  "create", "prepare" or "destroy" never returns
 *   take none      takes no operation
 *   only_while F   misbehaves only while the file F exists
 *   report F       appends to F what it is asked to do
 *
 * An option it does not know makes it refuse. The structures are those of TFLite 2.17's common.h, as far as they are used. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
    IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
    Delegate *delegate;
    bool might_have_side_effect;
} Node;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external;
    void *async_kernel;
    uint64_t inplace_operator;
} Registration;

typedef struct {
    Delegate *delegate;
    IntArray *nodes_to_replace, *input_tensors, *output_tensors;
} Params;

struct Context {
    size_t tensors_size;
    int (*GetExecutionPlan)(Context *, IntArray **);
    void *tensors, *impl;
    void *ResizeTensor;
    void (*ReportError)(Context *, const char *, ...);
    void *AddTensors;
    int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
    int (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
    void *data;
    int (*Prepare)(Context *, Delegate *);
    void *CopyFromBufferHandle, *CopyToBufferHandle, *FreeBufferHandle;
    int64_t flags;
    void *opaque_delegate_builder;
};

enum { OK = 0, ERROR = 1, CONCATENATION = 2, RESHAPE = 22, MOST = 256 };

typedef struct {
    int node;
    Node copy;
    Registration registration;
} Taken;

typedef struct {
    Delegate delegate;
    long fail_at, hang_at, runs;
    char hang_in[16], only_while[512], report[512];
    bool take_none;
    int count;
    Taken taken[MOST];
} Data;

/* What one kernel of ours stands for. */
typedef struct {
    Data *data;
    int count, which[MOST];
} Kernel;

static bool misbehaves(const Data *d) { return !d->only_while[0] || access(d->only_while, F_OK) == 0; }

static void hang(void) {
    for (;;) pause();
}

static void tell(const Data *d, const char *what) {
    FILE *file = d->report[0] ? fopen(d->report, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", what);
    fclose(file);
}

static void hang_in(const Data *d, const char *where) {
    tell(d, where);
    if (strcmp(d->hang_in, where) == 0 && misbehaves(d)) hang();
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
    const Params *params = (const Params *)buffer;
    Kernel *kernel = calloc(1, sizeof *kernel);
    (void)context, (void)length;
    kernel->data = params->delegate->data;
    for (int i = 0; i < params->nodes_to_replace->size; i++)
        for (int t = 0; t < kernel->data->count; t++)
            if (kernel->data->taken[t].node == params->nodes_to_replace->data[i]) kernel->which[kernel->count++] = t;
    return kernel;
}

static void kernel_free(Context *context, void *kernel) {
    (void)context;
    free(kernel);
}

static int kernel_prepare(Context *context, Node *node) {
    Kernel *kernel = node->user_data;
    for (int i = 0; i < kernel->count; i++) {
        Taken *t = &kernel->data->taken[kernel->which[i]];
        if (t->registration.prepare && t->registration.prepare(context, &t->copy) != OK) return ERROR;
    }
    return OK;
}

static int kernel_invoke(Context *context, Node *node) {
    Kernel *kernel = node->user_data;
    Data *d = kernel->data;
    /* A model may be cut into several parts: the first one counts. */
    if (kernel->which[0] == 0) d->runs++;
    if (misbehaves(d) && d->fail_at && d->runs >= d->fail_at) {
        tell(d, "fail");
        context->ReportError(context, "the test delegate fails as it was told");
        return ERROR;
    }
    if (misbehaves(d) && d->hang_at && d->runs >= d->hang_at) {
        tell(d, "hang");
        hang();
    }
    for (int i = 0; i < kernel->count; i++) {
        Taken *t = &d->taken[kernel->which[i]];
        if (t->registration.invoke(context, &t->copy) != OK) return ERROR;
    }
    return OK;
}

static int prepare(Context *context, Delegate *delegate) {
    Data *d = delegate->data;
    IntArray *plan, *mine;
    hang_in(d, "prepare");
    if (context->GetExecutionPlan(context, &plan) != OK) return ERROR;
    mine = malloc(sizeof *mine + sizeof(int) * (size_t)plan->size);
    mine->size = 0;
    for (int i = 0; i < plan->size && !d->take_none; i++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) != OK) return ERROR;
        if ((registration->builtin_code != RESHAPE && registration->builtin_code != CONCATENATION) || d->count == MOST) continue;
        d->taken[d->count++] = (Taken){plan->data[i], *node, *registration};
        mine->data[mine->size++] = plan->data[i];
    }
    Registration ours = {.init = kernel_init, .free = kernel_free, .prepare = kernel_prepare, .invoke = kernel_invoke,
                         .custom_name = "SpotterTestDelegate", .version = 1};
    int status = mine->size ? context->ReplaceNodeSubsetsWithDelegateKernels(context, ours, mine, delegate) : OK;
    free(mine);
    return status;
}

Delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                                        void (*report_error)(const char *)) {
    Data *d = calloc(1, sizeof *d);
    (void)report_error;
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(keys[i], "fail_at")) d->fail_at = atol(values[i]);
        else if (!strcmp(keys[i], "hang_at")) d->hang_at = atol(values[i]);
        else if (!strcmp(keys[i], "hang_in")) snprintf(d->hang_in, sizeof d->hang_in, "%s", values[i]);
        else if (!strcmp(keys[i], "only_while")) snprintf(d->only_while, sizeof d->only_while, "%s", values[i]);
        else if (!strcmp(keys[i], "report")) snprintf(d->report, sizeof d->report, "%s", values[i]);
        else if (!strcmp(keys[i], "take")) d->take_none = !strcmp(values[i], "none");
        else {
            free(d);
            return NULL;
        }
    }
    hang_in(d, "create");
    d->delegate = (Delegate){.data = d, .Prepare = prepare};
    return &d->delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
    hang_in(delegate->data, "destroy");
    free(delegate->data);
}

/* The name under which libedgetpu tells its version. */
const char *edgetpu_version(void) { return "test 1.2.3"; }
