/*
 * The C ABI from C: every call, on small batches whose answers follow by hand.
 *
 * Logits are logarithms of whole numbers, so that softmax gives fractions: the row log{1, 2, 3, 4} has probabilities
 * 0.1, 0.2, 0.3, 0.4 and log-sum-exp log 10.
 */
#include <dpo_kernels.h>

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks = 0;

static void check(int holds, const char *what, int line) {
    checks++;
    if (!holds) {
        fprintf(stderr, "program.c:%d: %s does not hold; last error: \"%s\"\n", line, what, dpo_last_error());
        exit(1);
    }
}
#define CHECK(condition) check(condition, #condition, __LINE__)
#define CLOSE(found, expected) CHECK(fabs((double)(found) - (expected)) <= 2e-6 * (1.0 + fabs(expected)))
#define REFUSED(call, code, message) CHECK((call) == (code) && strcmp(dpo_last_error(), (message)) == 0)

enum { V = 4, T = 2, S = 2, ROWS = S * T };

/* Everything a forward pass writes. */
struct results {
    float logps[S], token_logps[ROWS], logsumexp[ROWS], residual[ROWS];
    uint32_t scored[S];
    float pair_losses[S], chosen_rewards[S], rejected_rewards[S], margins[S], coef[S]; /* at most a pair a sequence */
    dpo_status status;
    dpo_pair_metrics metrics;
};

static dpo_logps logps_outputs(struct results *r) {
    dpo_logps out = {.struct_size = sizeof out,
                     .logps = r->logps,
                     .scored = r->scored,
                     .token_logps = r->token_logps,
                     .logsumexp = r->logsumexp,
                     .logsumexp_residual = r->residual,
                     .status = &r->status};
    return out;
}

static dpo_pair_outputs pair_outputs(struct results *r) {
    dpo_pair_outputs out = {.struct_size = sizeof out,
                            .pair_losses = r->pair_losses,
                            .chosen_rewards = r->chosen_rewards,
                            .rejected_rewards = r->rejected_rewards,
                            .margins = r->margins,
                            .coef = r->coef,
                            .metrics = &r->metrics};
    return out;
}

static dpo_gradient gradient_outputs(struct results *r, void *dlogits) {
    dpo_gradient gradient = {.struct_size = sizeof gradient,
                             .logsumexp = r->logsumexp,
                             .logsumexp_residual = r->residual,
                             .coef = r->coef,
                             .dlogits = dlogits};
    return gradient;
}

static const dpo_batch PADDED = {.struct_size = sizeof(dpo_batch),
                                 .vocab = V,
                                 .sequences = S,
                                 .sequence_len = T,
                                 .label_alignment = DPO_ALIGNED};
static const dpo_loss SIGMOID = {.struct_size = sizeof(dpo_loss), .beta = 0.5};
/* Rows 0 and 1 are the chosen sequence, 2 and 3 the rejected one, of which row 3 is not scored. */
static const int64_t LABELS[ROWS] = {3, 1, 0, DPO_IGNORE_INDEX};
static const float REF_LOGPS[S] = {-2.0f, -2.5f};

static void fill(float logits[ROWS][V]) {
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < V; v++) logits[r][v] = logf((float)(v + 1)) + (float)r; /* a shift changes nothing */
    logits[3][0] = NAN;                                                            /* not scored, so not read */
}

/* Forward and backward, f32 and 64-bit labels, apart and in place, and each stage alone. */
static void f32_padded(void) {
    float logits[ROWS][V], dlogits[ROWS][V];
    fill(logits);
    struct results r;
    dpo_inputs inputs = {.struct_size = sizeof inputs,
                         .dtype = DPO_F32,
                         .label_type = DPO_LABELS_I64,
                         .logits = logits,
                         .labels = LABELS};
    dpo_logps out = logps_outputs(&r);
    dpo_pair_outputs pairs = pair_outputs(&r);
    CHECK(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &SIGMOID, &out, &pairs) == DPO_OK);
    CHECK(dpo_status_check(&r.status) == DPO_OK);

    /* log 0.4 + log 0.2 = log 0.08 and log 0.1 */
    CLOSE(r.token_logps[0], -0.9162907318741551);
    CLOSE(r.token_logps[1], -1.6094379124341003);
    CLOSE(r.token_logps[3], 0.0);
    CLOSE(r.logps[0], -2.5257286443082556);
    CLOSE(r.logps[1], -2.3025850929940455);
    CHECK(r.scored[0] == 2 && r.scored[1] == 1);
    CLOSE(r.logsumexp[1], 2.3025850929940459 + 1.0);
    /* 0.5 (-2.52573 + 2) and 0.5 (-2.30259 + 2.5); u = -0.36157, softplus(-u), 0.5 sigmoid(-u) */
    CLOSE(r.chosen_rewards[0], -0.2628643221541278);
    CLOSE(r.rejected_rewards[0], 0.0987074535029773);
    CLOSE(r.margins[0], -0.3615717756571051);
    CLOSE(r.metrics.loss, 0.8901834871);
    CLOSE(r.pair_losses[0], 0.8901834871);
    CLOSE(r.coef[0], -0.2947101265);
    CLOSE(r.coef[1], 0.2947101265);
    CHECK(r.metrics.accuracy == 0.0f);

    /* Row 0: c (1[v = 3] - {.1 .2 .3 .4}); row 3 is 0. Twice as much for an upstream gradient of 4 and a scale of 1/2. */
    const float upstream = 4.0f;
    dpo_gradient gradient = gradient_outputs(&r, dlogits);
    gradient.upstream = &upstream;
    gradient.upstream_scale = 0.5f;
    gradient.given = DPO_GRADIENT_UPSTREAM_SCALE;
    CHECK(dpo_cpu_backward(&PADDED, &inputs, &gradient) == DPO_OK);
    for (int v = 0; v < V; v++) {
        const double softmax = (v + 1) / 10.0;
        CLOSE(dlogits[0][v], 2.0 * -0.2947101265 * ((v == 3) - softmax));
        CLOSE(dlogits[1][v], 2.0 * -0.2947101265 * ((v == 1) - softmax));
        CLOSE(dlogits[2][v], 2.0 * 0.2947101265 * ((v == 0) - softmax));
        CHECK(dlogits[3][v] == 0.0f);
    }

    /* logps and pair_loss apart give the same bits, wanted or not. */
    struct results alone;
    dpo_batch unpaired = PADDED;
    unpaired.pairs = DPO_PAIRS_NONE;
    dpo_logps few = {.struct_size = sizeof few, .logps = alone.logps, .status = &alone.status};
    CHECK(dpo_cpu_logps(&unpaired, &inputs, &few) == DPO_OK);
    CHECK(memcmp(alone.logps, r.logps, sizeof r.logps) == 0);
    dpo_pair_outputs alone_pairs = pair_outputs(&alone);
    CHECK(dpo_cpu_pair_loss(&PADDED, alone.logps, REF_LOGPS, NULL, &SIGMOID, &alone_pairs, &alone.status) == DPO_OK);
    CHECK(memcmp(alone.coef, r.coef, sizeof r.coef) == 0);

    /* The factored forward: the same results, and a gradient that lacks its coefficients alone; in place too. */
    struct results factored;
    float without_coef[ROWS][V], over_logits[ROWS][V];
    dpo_logps factored_out = logps_outputs(&factored);
    dpo_pair_outputs factored_pairs = pair_outputs(&factored);
    CHECK(dpo_cpu_factored(&PADDED, &inputs, REF_LOGPS, &SIGMOID, &factored_out, &factored_pairs, without_coef) ==
          DPO_OK);
    CHECK(memcmp(factored.token_logps, r.token_logps, sizeof r.token_logps) == 0);
    CHECK(memcmp(factored.coef, r.coef, sizeof r.coef) == 0 && factored.metrics.loss == r.metrics.loss);
    for (int v = 0; v < V; v++) {
        const double softmax = (v + 1) / 10.0;
        CLOSE(without_coef[0][v], (v == 3) - softmax);
        CLOSE(without_coef[1][v], (v == 1) - softmax);
        CLOSE(without_coef[2][v], (v == 0) - softmax);
        CHECK(without_coef[3][v] == 0.0f);
    }
    memcpy(over_logits, logits, sizeof logits);
    dpo_inputs writable = inputs;
    writable.logits = over_logits;
    CHECK(dpo_cpu_factored(&PADDED, &writable, REF_LOGPS, &SIGMOID, &factored_out, &factored_pairs, over_logits) ==
          DPO_OK);
    CHECK(memcmp(over_logits, without_coef, sizeof without_coef) == 0);

    /* In place gives the same bits. */
    gradient.dlogits = logits;
    CHECK(dpo_cpu_backward(&PADDED, &inputs, &gradient) == DPO_OK);
    CHECK(memcmp(logits, dlogits, sizeof logits) == 0);
}

/* The same answers from packed, next-token, indexed f16 and bf16 rows with a stride and 32-bit labels. */
static void half_packed(void) {
    /* Uniform rows: log-prob -log 4 each, whatever the label. 0x3c00 and 0x3f80 are 1.0. */
    static const struct {
        dpo_dtype dtype;
        uint16_t one, quarter;
    } types[] = {{DPO_F16, 0x3c00, 0x3400}, {DPO_BF16, 0x3f80, 0x3e80}};
    static const int32_t cu_seqlens[] = {0, 3, 4}, chosen[] = {0}, rejected[] = {1};
    static const int32_t labels[ROWS] = {-1, 2, -1, 3}; /* of four, row 0 alone is scored: it predicts labels[1] */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint16_t logits[ROWS][V + 1];
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v <= V; v++) logits[r][v] = types[i].one;
        dpo_batch batch = {.struct_size = sizeof batch,
                           .vocab = V,
                           .sequences = S,
                           .cu_seqlens = cu_seqlens,
                           .rows = ROWS,
                           .pairs = DPO_PAIRS_INDEXED,
                           .label_alignment = DPO_NEXT_TOKEN,
                           .pair_count = 1,
                           .chosen = chosen,
                           .rejected = rejected,
                           .given = DPO_BATCH_ROW_STRIDE | DPO_BATCH_IGNORE_INDEX,
                           .row_stride = V + 1,
                           .ignore_index = -1};
        dpo_inputs inputs = {.struct_size = sizeof inputs,
                             .dtype = types[i].dtype,
                             .label_type = DPO_LABELS_I32,
                             .logits = logits,
                             .labels = labels};
        const dpo_loss loss = {.struct_size = sizeof loss,
                               .beta = 1.0,
                               .length_normalized = 1,
                               .reference_free = 1,
                               .given = DPO_LOSS_LABEL_SMOOTHING | DPO_LOSS_NORMALIZER,
                               .label_smoothing = 0.25,
                               .normalizer = 2.0};
        struct results r;
        dpo_logps out = logps_outputs(&r);
        dpo_pair_outputs pairs = pair_outputs(&r);
        CHECK(dpo_cpu_forward(&batch, &inputs, NULL, &loss, &out, &pairs) == DPO_OK);
        CLOSE(r.logps[0], -1.3862943611198906);
        CHECK(r.scored[0] == 1 && r.scored[1] == 0 && r.logps[1] == 0.0f);
        /* u = -log 4: loss = 0.75 log 5 + 0.25 log 1.25, c = 0.25 - 4/5, both halved by the normalizer. */
        CLOSE(r.pair_losses[0], 1.2628643221541278);
        CLOSE(r.metrics.loss, 0.6314321610770639);
        CLOSE(r.coef[0], -0.275);

        /* An empty sequence is trouble, and says where. */
        CHECK(r.status.empty_sequence == 1 && r.status.bad_label == DPO_NO_TROUBLE);
        REFUSED(dpo_status_check(&r.status), DPO_ERROR_DATA, "bad data: no scored token, first in sequence 1");

        /* c/4 per token: a coefficient of one's own, 1, makes it exact in 16 bits. */
        r.coef[0] = -1.0f;
        dpo_gradient gradient = gradient_outputs(&r, logits);
        CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_OK);
        CHECK(logits[0][0] == types[i].quarter && logits[0][3] == types[i].quarter);
        CHECK((logits[0][2] & 0x8000) != 0 && logits[1][0] == 0 && logits[3][3] == 0);
        CHECK(logits[0][4] == types[i].one); /* between the rows */
    }
}

/* A weighted sum of losses by their names, with values of each pair's own; and sequences without pairs. */
static void other_losses(void) {
    const float ref_logps[] = {-3.0f, -5.0f};
    const uint32_t scored[] = {2, 1};
    dpo_batch batch = PADDED;
    batch.sequences = 2;
    struct results r;
    dpo_pair_outputs out = pair_outputs(&r);

    /* 2 (1 - z) + 1.5 as z = 0, and the negative log-likelihood 3/2; the pair is worth half. */
    const dpo_loss_term terms[] = {{.name = "hinge", .weight = 2.0, .given = DPO_TERM_WEIGHT}, {.name = "nll"}};
    const float weight = 0.5f, normalizer = 4.0f;
    const dpo_pair_inputs inputs = {.struct_size = sizeof inputs, .weight = &weight, .normalizer = &normalizer};
    dpo_loss loss = {.struct_size = sizeof loss, .beta = 0.5, .terms = terms, .term_count = 2, .inputs = &inputs};
    const float tied[] = {-3.0f, -5.0f};
    CHECK(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.pair_losses[0], 1.75);
    CLOSE(r.metrics.loss, 0.4375);
    CLOSE(r.coef[0], -0.1875);
    CLOSE(r.coef[1], 0.125);
    CHECK(r.metrics.pairs == 1 && r.metrics.chosen == 1 && r.metrics.rejected == 1);
    CHECK(r.status.bad_pair_input == DPO_NO_TROUBLE);

    /* A reference that is no number makes its pair NaN, which the status names; a pair of weight 0 is none. */
    const float no_reference[] = {NAN, -5.0f};
    CHECK(dpo_cpu_pair_loss(&batch, tied, no_reference, scored, &loss, &out, &r.status) == DPO_OK);
    CHECK(isnan(r.pair_losses[0]) && isnan(r.coef[0]) && isnan(r.coef[1]) && r.status.bad_pair_input == 0);
    REFUSED(dpo_status_check(&r.status), DPO_ERROR_DATA, "bad data: input not finite or out of range, first in pair 0");
    const float nothing = 0.0f;
    const dpo_pair_inputs filled_up = {.struct_size = sizeof filled_up, .weight = &nothing};
    loss.inputs = &filled_up;
    CHECK(dpo_cpu_pair_loss(&batch, tied, no_reference, scored, &loss, &out, &r.status) == DPO_OK);
    CHECK(r.metrics.loss == 0.0f && r.metrics.pairs == 0 && r.coef[0] == 0.0f && r.coef[1] == 0.0f);
    CHECK(dpo_status_check(&r.status) == DPO_OK);

    /* A loss of a sum may have a temperature of its own; the rewards are those of the first that has one. */
    dpo_loss_term of_sum[] = {{.name = "nll"}, {.name = "hinge", .beta = 2.0, .given = DPO_TERM_BETA}};
    const dpo_loss before = loss;
    loss = (dpo_loss){.struct_size = sizeof loss, .beta = 0.5, .terms = of_sum, .term_count = 2};
    CHECK(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    const float reward = r.chosen_rewards[0];
    of_sum[1].given = 0;
    of_sum[1].beta = 0.0;
    CHECK(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(reward, 4.0 * r.chosen_rewards[0]);
    of_sum[0].beta = 0.5;
    of_sum[0].given = DPO_TERM_BETA;
    REFUSED(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status), DPO_ERROR_VALUE,
            "beta: expected none for nll, found 0.5");
    loss = before;

    /* WPO weighs a pair by 1 at most. */
    const float log_weights[] = {1.5f, -0.5f};
    const dpo_pair_inputs weighted = {.struct_size = sizeof weighted, .sequence_log_weights = log_weights};
    loss.inputs = &weighted;
    CHECK(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.pair_losses[0], 3.5 * 2.718281828459045);
    loss.wpo_weights = 1;
    CHECK(dpo_cpu_pair_loss(&batch, tied, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.pair_losses[0], 3.5);

    /* KTO at its baseline of 1: an undesirable and a desirable sequence, each with a loss of one half. */
    const int32_t desirable[] = {0, 1};
    batch.pairs = DPO_PAIRS_UNPAIRED;
    batch.desirable = desirable;
    dpo_loss_term kto = {.name = "kto"};
    loss = (dpo_loss){.struct_size = sizeof loss, .beta = 0.5, .terms = &kto, .term_count = 1,
                      .given = DPO_LOSS_BASELINE, .baseline = 1.0};
    const float above[] = {-2.0f, -4.0f};
    CHECK(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.metrics.loss, 0.5);
    CLOSE(r.coef[0], 0.0625);
    CLOSE(r.coef[1], -0.0625);

    /* Its second parameter, the weight of undesirable sequences, alone: a coefficient three times as large. */
    kto.parameters[1] = 3.0;
    kto.given = DPO_TERM_PARAMETER_1;
    CHECK(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.coef[0], 0.1875);
    CLOSE(r.coef[1], -0.0625);
    kto.parameters[0] = -1.0;
    kto.given |= DPO_TERM_PARAMETER_0;
    REFUSED(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status), DPO_ERROR_VALUE,
            "parameters[0]: expected a finite number above 0, found -1");

    kto = (dpo_loss_term){.name = "kto"};
    loss.given = 0;
    loss.baseline = 0.0;
    REFUSED(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status), DPO_ERROR_MISSING,
            "kl_logps: required when the loss compares with a baseline that is not set");
    kto.name = "ppo";
    CHECK(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status) == DPO_ERROR_VALUE &&
          strncmp(dpo_last_error(), "name: expected one of sigmoid", 29) == 0);
    loss.terms = NULL;
    REFUSED(dpo_cpu_pair_loss(&batch, above, ref_logps, scored, &loss, &out, &r.status), DPO_ERROR_VALUE,
            "term_count: expected 0 where terms is null, found 1");
}

/* DPO compares with a reference, and is without one only where that is said; nothing may be given then. */
static void references(void) {
    const float logps[S] = {-3.0f, -5.0f};
    struct results r;
    dpo_pair_outputs out = pair_outputs(&r);
    dpo_loss loss = SIGMOID;
    REFUSED(dpo_cpu_pair_loss(&PADDED, logps, NULL, NULL, &loss, &out, &r.status), DPO_ERROR_MISSING,
            "ref_logps: required when the loss compares with a reference and is not reference-free "
            "(without_reference, in C reference_free)");
    loss.reference_free = 1;
    REFUSED(dpo_cpu_pair_loss(&PADDED, logps, REF_LOGPS, NULL, &loss, &out, &r.status), DPO_ERROR_VALUE,
            "ref_logps: expected none, for a loss without a reference, found some");
    CHECK(dpo_cpu_pair_loss(&PADDED, logps, NULL, NULL, &loss, &out, &r.status) == DPO_OK);
    CLOSE(r.margins[0], 1.0);

    /* A sum, of which one loss is without a reference anyway. */
    const dpo_loss_term terms[] = {{.name = "cpo"}, {.name = "hinge"}};
    const uint32_t scored[S] = {1, 1};
    loss.terms = terms;
    loss.term_count = 2;
    CHECK(dpo_cpu_pair_loss(&PADDED, logps, NULL, scored, &loss, &out, &r.status) == DPO_OK);
    loss.reference_free = 0;
    REFUSED(dpo_cpu_pair_loss(&PADDED, logps, NULL, scored, &loss, &out, &r.status), DPO_ERROR_VALUE,
            "loss: expected losses that all have a reference, or none, found both kinds");

    /* DPO by its own name. */
    struct results named;
    dpo_pair_outputs out_of_named = pair_outputs(&named);
    const dpo_loss_term dpo = {.name = "dpo"};
    loss = SIGMOID;
    CHECK(dpo_cpu_pair_loss(&PADDED, logps, REF_LOGPS, NULL, &loss, &out, &r.status) == DPO_OK);
    loss.terms = &dpo;
    loss.term_count = 1;
    CHECK(dpo_cpu_pair_loss(&PADDED, logps, REF_LOGPS, NULL, &loss, &out_of_named, &named.status) == DPO_OK);
    CHECK(memcmp(named.coef, r.coef, sizeof r.coef) == 0 && named.metrics.loss == r.metrics.loss);
}

/* Zeros are the defaults; what is there without being looked at is refused, and so are bits that nothing knows. */
static void absent(void) {
    float logits[ROWS][V], dlogits[ROWS][V], plain[ROWS][V];
    fill(logits);
    struct results r, defaults;
    dpo_inputs inputs = {.struct_size = sizeof inputs,
                         .dtype = DPO_F32,
                         .label_type = DPO_LABELS_I64,
                         .logits = logits,
                         .labels = LABELS};
    dpo_logps out = logps_outputs(&defaults);
    dpo_pair_outputs pairs = pair_outputs(&defaults);
    CHECK(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &SIGMOID, &out, &pairs) == DPO_OK);
    dpo_gradient gradient = gradient_outputs(&defaults, plain);
    CHECK(dpo_cpu_backward(&PADDED, &inputs, &gradient) == DPO_OK);
    CHECK(plain[0][0] != 0.0f);

    /* The defaults by number, and optional structs of zeros, give the same bits. */
    dpo_batch batch = PADDED;
    batch.given = DPO_BATCH_ROW_STRIDE | DPO_BATCH_IGNORE_INDEX | DPO_BATCH_LD_ALPHA;
    batch.row_stride = V;
    batch.ignore_index = DPO_IGNORE_INDEX;
    batch.ld_alpha = 1.0f;
    batch.transform = (dpo_transform){.given = DPO_TRANSFORM_SCALE | DPO_TRANSFORM_VALID_VOCAB,
                                      .scale = 1.0f,
                                      .valid_vocab = V};
    const dpo_pair_inputs nothing = {.struct_size = sizeof nothing};
    dpo_loss_term sigmoid = {.name = "sigmoid", .weight = 1.0, .given = DPO_TERM_WEIGHT};
    dpo_loss loss = {.struct_size = sizeof loss,
                     .beta = SIGMOID.beta,
                     .terms = &sigmoid,
                     .term_count = 1,
                     .given = DPO_LOSS_LABEL_SMOOTHING | DPO_LOSS_GAMMA | DPO_LOSS_NORMALIZER,
                     .normalizer = 1.0,
                     .inputs = &nothing};
    dpo_token_metrics metrics = {.struct_size = sizeof metrics};
    out = logps_outputs(&r);
    out.metrics = &metrics;
    pairs = pair_outputs(&r);
    memset(&r, 0x5a, sizeof r);
    CHECK(dpo_cpu_forward(&batch, &inputs, REF_LOGPS, &loss, &out, &pairs) == DPO_OK);
    CHECK(memcmp(r.logps, defaults.logps, sizeof r.logps) == 0);
    CHECK(memcmp(r.logsumexp, defaults.logsumexp, sizeof r.logsumexp) == 0);
    CHECK(memcmp(r.coef, defaults.coef, sizeof r.coef) == 0);
    CHECK(memcmp(&r.metrics, &defaults.metrics, sizeof r.metrics) == 0);
    gradient = gradient_outputs(&r, dlogits);
    gradient.given = DPO_GRADIENT_UPSTREAM_SCALE | DPO_GRADIENT_THRESHOLD;
    gradient.upstream_scale = 1.0f;
    CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_OK);
    CHECK(memcmp(dlogits, plain, sizeof plain) == 0);

    /* Which label a row predicts has no default. */
    batch = PADDED;
    batch.label_alignment = (dpo_label_alignment)0;
    const char *no_alignment = "label_alignment: expected DPO_ALIGNED (row r predicts labels[r]) or DPO_NEXT_TOKEN "
                               "(row t predicts labels[t + 1], as for Hugging Face's labels), found 0";
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE, no_alignment);
    REFUSED(dpo_cpu_forward(&batch, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_VALUE, no_alignment);
    REFUSED(dpo_cpu_factored(&batch, &inputs, REF_LOGPS, &loss, &out, &pairs, dlogits), DPO_ERROR_VALUE, no_alignment);
    REFUSED(dpo_cpu_backward(&batch, &inputs, &gradient), DPO_ERROR_VALUE, no_alignment);
    /* pair_loss reads no labels, and of a batch its sequences and pairs alone. */
    const dpo_batch pairs_alone = {.struct_size = sizeof pairs_alone, .sequences = S};
    CHECK(dpo_cpu_pair_loss(&pairs_alone, defaults.logps, REF_LOGPS, NULL, &loss, &pairs, &r.status) == DPO_OK);
    CHECK(memcmp(r.coef, defaults.coef, sizeof r.coef) == 0);

    /* A bit that is set makes 0 a number. */
    batch = PADDED;
    gradient.upstream_scale = 0.0f;
    CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_OK && dlogits[0][0] == 0.0f);
    batch.transform.given = DPO_TRANSFORM_SCALE;
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE,
            "transform.scale: expected a finite number above 0, found 0");

    /* A number without its bit. */
    batch = PADDED;
    batch.ignore_index = -1;
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE,
            "ignore_index: expected 0 where DPO_BATCH_IGNORE_INDEX is not given, found -1");
    batch = PADDED;
    batch.transform.softcap = 30.0f;
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE,
            "transform.softcap: expected 0 where DPO_TRANSFORM_SOFTCAP is not given, found 30");
    loss.given = 0;
    REFUSED(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_VALUE,
            "normalizer: expected 0 where DPO_LOSS_NORMALIZER is not given, found 1");
    loss.normalizer = 0.0;
    sigmoid.given = 0;
    REFUSED(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_VALUE,
            "weight: expected 0 where DPO_TERM_WEIGHT is not given, found 1");
    gradient = gradient_outputs(&r, dlogits);
    gradient.threshold = NAN;
    REFUSED(dpo_cpu_backward(&PADDED, &inputs, &gradient), DPO_ERROR_VALUE,
            "threshold: expected 0 where DPO_GRADIENT_THRESHOLD is not given, found NaN");

    /* A bit that nothing knows. */
    gradient.given = DPO_GRADIENT_THRESHOLD | 1u << 31;
    REFUSED(dpo_cpu_backward(&PADDED, &inputs, &gradient), DPO_ERROR_VALUE,
            "given: expected no bits but DPO_GRADIENT_UPSTREAM_SCALE, DPO_GRADIENT_THRESHOLD, found 0x80000000");
    loss.given = 1u << 5;
    CHECK(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs) == DPO_ERROR_VALUE &&
          strncmp(dpo_last_error(), "given: expected no bits but DPO_LOSS_LABEL_SMOOTHING, ", 54) == 0);
    batch = PADDED;
    batch.given = 1u << 4;
    CHECK(dpo_cpu_logps(&batch, &inputs, &out) == DPO_ERROR_VALUE && strncmp(dpo_last_error(), "given: ", 7) == 0);
    batch = PADDED;
    batch.transform.given = 1u << 3;
    CHECK(dpo_cpu_logps(&batch, &inputs, &out) == DPO_ERROR_VALUE && strncmp(dpo_last_error(), "given: ", 7) == 0);
    loss.given = 0;
    sigmoid = (dpo_loss_term){.name = "sigmoid", .given = 1u << 4};
    CHECK(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs) == DPO_ERROR_VALUE &&
          strncmp(dpo_last_error(), "given: ", 7) == 0);

    /* What belongs to another layout or loss. */
    static const int32_t desirable[S] = {1, 0};
    batch = PADDED;
    batch.desirable = desirable;
    CHECK(dpo_cpu_logps(&batch, &inputs, &out) == DPO_ERROR_VALUE &&
          strncmp(dpo_last_error(), "desirable: expected null where pairs is not DPO_PAIRS_UNPAIRED, ", 64) == 0);
    batch = PADDED;
    batch.rows = ROWS;
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE,
            "rows: expected 0 in a padded batch, whose cu_seqlens is null, found 4");
    sigmoid = (dpo_loss_term){.name = "sigmoid", .parameters = {0.0, 2.0}, .given = DPO_TERM_PARAMETER_1};
    REFUSED(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_VALUE,
            "parameters[1]: expected none for sigmoid, found 2");
    loss = SIGMOID;
    loss.divergence = DPO_ALPHA_DIVERGENCE;
    REFUSED(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_MISSING,
            "alpha: required when divergence is DPO_ALPHA_DIVERGENCE");
    loss.given = DPO_LOSS_ALPHA;
    CHECK(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs) == DPO_OK);
    loss.divergence = DPO_REVERSE_KL;
    REFUSED(dpo_cpu_forward(&PADDED, &inputs, REF_LOGPS, &loss, &out, &pairs), DPO_ERROR_VALUE,
            "alpha: expected none where divergence is not DPO_ALPHA_DIVERGENCE, found 0");
}

/* Squared and cut to three columns, the rows have probabilities {1, 4, 9} / 14; token 1 of the chosen sequence, which the
 * rejected one has no match for, weighs a half. */
static void extras(void) {
    float logits[ROWS][V], dlogits[ROWS][V];
    fill(logits);
    static const int64_t labels[ROWS] = {2, 1, 0, DPO_IGNORE_INDEX};
    struct results r;
    float token_weights[ROWS], entropy[ROWS], correct[ROWS], mean_logit[ROWS], sum_p2[ROWS], log_weights[S];
    dpo_batch batch = PADDED;
    batch.given = DPO_BATCH_LD_ALPHA;
    batch.ld_alpha = 0.5f;
    batch.transform = (dpo_transform){.given = DPO_TRANSFORM_SCALE | DPO_TRANSFORM_VALID_VOCAB,
                                      .scale = 2.0f,
                                      .valid_vocab = 3};
    dpo_inputs inputs = {.struct_size = sizeof inputs,
                         .dtype = DPO_F32,
                         .label_type = DPO_LABELS_I64,
                         .logits = logits,
                         .labels = labels};
    dpo_logps out = logps_outputs(&r);
    out.token_weights = token_weights;
    dpo_batch_metrics batch_metrics;
    dpo_token_metrics metrics = {.struct_size = sizeof metrics,
                                 .entropy = entropy,
                                 .correct = correct,
                                 .mean_logit = mean_logit,
                                 .sum_p2 = sum_p2,
                                 .sequence_log_weights = log_weights,
                                 .mean = &batch_metrics.tokens};
    out.metrics = &metrics;
    out.status = &batch_metrics.status;
    CHECK(dpo_cpu_logps(&batch, &inputs, &out) == DPO_OK);
    CHECK(dpo_status_check(&batch_metrics.status) == DPO_OK);
    const double p[3] = {1 / 14.0, 4 / 14.0, 9 / 14.0};
    CLOSE(r.token_logps[0], log(p[2]));
    CLOSE(r.logps[0], log(p[2]) + 0.5 * log(p[1]));
    CHECK(token_weights[0] == 1.0f && token_weights[1] == 0.5f && token_weights[2] == 1.0f && token_weights[3] == 0.0f);
    CLOSE(entropy[0], -(p[0] * log(p[0]) + p[1] * log(p[1]) + p[2] * log(p[2])));
    CLOSE(sum_p2[1], 0.5);
    CLOSE(mean_logit[0], 2.0 * log(6.0) / 3.0);
    CHECK(correct[0] == 1.0f && correct[1] == 0.0f && correct[3] == 0.0f);
    CLOSE(log_weights[0], 0.5 * (log(p[2]) + log(p[1])) - log(0.5));

    /* Three rows alike, but for their labels and shifts of 0, 2 and 4; alone the means are the same. */
    const dpo_mean_token_metrics means = batch_metrics.tokens;
    CHECK(means.scored == 3);
    CLOSE(means.accuracy, 1 / 3.0);
    CLOSE(means.entropy, entropy[0]);
    CLOSE(means.mean_logit, mean_logit[0] + 2.0);
    CLOSE(means.logsumexp, log(14.0) + 2.0);
    CLOSE(means.sum_p2, 0.5);
    metrics = (dpo_token_metrics){.struct_size = sizeof metrics, .mean = &batch_metrics.tokens};
    dpo_logps alone = {.struct_size = sizeof alone,
                       .logps = r.logps,
                       .metrics = &metrics,
                       .status = &batch_metrics.status};
    memset(&batch_metrics, 0x5a, sizeof batch_metrics);
    CHECK(dpo_cpu_logps(&batch, &inputs, &alone) == DPO_OK);
    CHECK(memcmp(&batch_metrics.tokens, &means, sizeof means) == 0);

    dpo_gradient gradient = gradient_outputs(&r, dlogits);
    gradient.coef = NULL;
    REFUSED(dpo_cpu_backward(&batch, &inputs, &gradient), DPO_ERROR_MISSING,
            "token_coef: required when ld_alpha is not 1");
    /* Row 1, of weight a half, is below the threshold. */
    uint32_t nonfinite_row = DPO_NO_TROUBLE;
    gradient.token_coef = token_weights;
    gradient.threshold = 0.5f;
    gradient.given = DPO_GRADIENT_THRESHOLD;
    gradient.nonfinite_row = &nonfinite_row;
    CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_OK);
    for (int v = 0; v < 3; v++) {
        CLOSE(dlogits[0][v], 2.0 * ((v == 2) - p[v]));
        CHECK(dlogits[1][v] == 0.0f);
    }
    CHECK(dlogits[0][3] == 0.0f && nonfinite_row == DPO_NO_TROUBLE);
    gradient.upstream_scale = INFINITY;
    gradient.given |= DPO_GRADIENT_UPSTREAM_SCALE;
    CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_OK && nonfinite_row == 0);

    batch.transform.softcap = -1.0f;
    batch.transform.given |= DPO_TRANSFORM_SOFTCAP;
    REFUSED(dpo_cpu_logps(&batch, &inputs, &out), DPO_ERROR_VALUE,
            "transform.softcap: expected a finite number above 0, found -1");
}

/* From hidden states: rows {1, r} of X times rows {log(v + 1), 1} of W are the logits of f32_padded, and so are the answers. */
static void lm_head(void) {
    enum { H = 2 };
    const double softmax[V] = {0.1, 0.2, 0.3, 0.4};
    const double coef[ROWS] = {-0.2947101265, -0.2947101265, 0.2947101265, 0.0};
    float hidden[ROWS][H], weight[V][H], dhidden[ROWS][H], dweight[V][H] = {{0}}, dbias[V] = {0};
    const float no_bias[V] = {0};
    for (int r = 0; r < ROWS; r++) hidden[r][0] = 1.0f, hidden[r][1] = (float)r;
    for (int v = 0; v < V; v++) weight[v][0] = logf((float)(v + 1)), weight[v][1] = 1.0f;
    hidden[3][0] = NAN; /* not scored, so not read */
    struct results r;
    uint32_t nonfinite_row = DPO_NO_TROUBLE;
    dpo_lm_head head = {.struct_size = sizeof head,
                        .dtype = DPO_F32,
                        .label_type = DPO_LABELS_I64,
                        .hidden_size = H,
                        .hidden = hidden,
                        .weight = weight,
                        .bias = no_bias,
                        .labels = LABELS};
    dpo_lm_head_gradients gradients = {.struct_size = sizeof gradients,
                                       .hidden = dhidden,
                                       .weight = dweight[0],
                                       .bias = dbias,
                                       .nonfinite_row = &nonfinite_row};
    dpo_logps out = logps_outputs(&r);
    dpo_pair_outputs pairs = pair_outputs(&r);
    dpo_cpu_lm_head_workspace *workspace = NULL;
    CHECK(dpo_cpu_lm_head_workspace_create(&workspace) == DPO_OK && workspace != NULL);
    REFUSED(dpo_cpu_lm_head_workspace_create(NULL), DPO_ERROR_VALUE,
            "workspace: expected an address aligned to 8 bytes, found null");
    dpo_cpu_lm_head_workspace_free(NULL);
#define HEAD_FORWARD(batch)                                                                                            \
    dpo_cpu_lm_head_forward(&(batch), &head, REF_LOGPS, &SIGMOID, &out, &pairs, &gradients, workspace)

    /* A plan of the three scored rows, 4 (V + 2 H) = 32 bytes each: three products; four where a pair does not fit. */
    dpo_lm_head_plan plan;
    CHECK(dpo_cpu_lm_head_plan(&PADDED, &head, &SIGMOID, &gradients, &plan) == DPO_OK);
    CHECK(plan.chunks == 1 && plan.most_rows == 3 && plan.chunk_bytes == 96 && plan.weight_block_bytes == 0);
    CHECK(plan.whole_pairs_rows == 3 && plan.multiplied_rows == 9 && plan.two_sweeps_rows == 0);
    CHECK(dpo_cpu_lm_head_plan(&PADDED, &head, NULL, NULL, &plan) == DPO_OK);
    CHECK(plan.logps_rows == 3 && plan.multiplied_rows == 3);
    dpo_lm_head_gradients of_hidden = {.struct_size = sizeof of_hidden, .hidden = dhidden};
    CHECK(dpo_cpu_lm_head_plan(&PADDED, &head, &SIGMOID, &of_hidden, &plan) == DPO_OK);
    CHECK(plan.frozen_weight_rows == 3 && plan.multiplied_rows == 6);
    REFUSED(dpo_cpu_lm_head_plan(&PADDED, &head, NULL, &of_hidden, &plan), DPO_ERROR_MISSING,
            "loss: required when gradients are wanted");
    head.budget_bytes = 64;
    REFUSED(dpo_cpu_lm_head_plan(&PADDED, &head, &SIGMOID, &gradients, &plan), DPO_ERROR_VALUE,
            "budget_bytes: expected 0 where DPO_LM_HEAD_BUDGET_BYTES is not given, found 64");
    head.given = DPO_LM_HEAD_BUDGET_BYTES;
    CHECK(dpo_cpu_lm_head_plan(&PADDED, &head, &SIGMOID, &gradients, &plan) == DPO_OK);
    CHECK(plan.chunks == 2 && plan.most_rows == 2 && plan.two_sweeps_rows == 3 && plan.multiplied_rows == 12);
    CHECK(dweight[0][0] == 0.0f && dbias[3] == 0.0f); /* nothing has run */

    /* Either way, with a workspace and without one; the gradients of weight and bias add up. */
    for (int pass = 1; pass <= 3; pass++) {
        CHECK(HEAD_FORWARD(PADDED) == DPO_OK);
        CHECK(dpo_status_check(&r.status) == DPO_OK && nonfinite_row == DPO_NO_TROUBLE);
        CLOSE(r.token_logps[0], log(0.4));
        CLOSE(r.logps[1], log(0.1));
        CLOSE(r.logsumexp[1], log(10.0) + 1.0);
        CLOSE(r.metrics.loss, 0.8901834871);
        CLOSE(r.coef[0], coef[0]);
        double of_weight[V][H] = {{0}}, of_bias[V] = {0};
        for (int row = 0; row < ROWS; row++) {
            double of_row[H] = {0};
            for (int v = 0; v < V; v++) {
                const double c_g = row < 3 ? coef[row] * ((LABELS[row] == v) - softmax[v]) : 0.0;
                of_row[0] += c_g * log(v + 1.0);
                of_row[1] += c_g;
                of_weight[v][0] += c_g;
                of_weight[v][1] += c_g * row;
                of_bias[v] += c_g;
            }
            CLOSE(dhidden[row][0], of_row[0]);
            CLOSE(dhidden[row][1], of_row[1]);
        }
        CHECK(dhidden[3][0] == 0.0f && dhidden[3][1] == 0.0f);
        for (int v = 0; v < V; v++) {
            CLOSE(dweight[v][0], pass * of_weight[v][0]);
            CLOSE(dweight[v][1], pass * of_weight[v][1]);
            CLOSE(dbias[v], pass * of_bias[v]);
        }
        if (pass == 1) head.given = 0, head.budget_bytes = 0;
        if (pass == 2) dpo_cpu_lm_head_workspace_free(workspace), workspace = NULL;
    }

    /* A frozen weight, and a loss of one's own, with half of the coefficients and twice the upstream gradient. */
    float frozen[ROWS][H], own[ROWS][H];
    of_hidden.hidden = frozen;
    CHECK(dpo_cpu_lm_head_forward(&PADDED, &head, REF_LOGPS, &SIGMOID, &out, &pairs, &of_hidden, NULL) == DPO_OK);
    struct results alone;
    dpo_logps alone_out = logps_outputs(&alone);
    CHECK(dpo_cpu_lm_head_logps(&PADDED, &head, &alone_out, NULL) == DPO_OK);
    CHECK(memcmp(alone.token_logps, r.token_logps, sizeof r.token_logps) == 0);
    const float half[S] = {r.coef[0] / 2, r.coef[1] / 2}, upstream = 4.0f;
    const dpo_lm_head_backward_inputs inputs = {.struct_size = sizeof inputs,
                                                .logsumexp = alone.logsumexp,
                                                .logsumexp_residual = alone.residual,
                                                .coef = half};
    of_hidden.hidden = own;
    of_hidden.upstream = &upstream;
    of_hidden.upstream_scale = 0.5f;
    of_hidden.given = DPO_GRADIENT_UPSTREAM_SCALE;
    CHECK(dpo_cpu_lm_head_backward(&PADDED, &head, &inputs, &of_hidden, NULL) == DPO_OK);
    for (int row = 0; row < ROWS; row++)
        for (int k = 0; k < H; k++) {
            CLOSE(frozen[row][k], dhidden[row][k]);
            CLOSE(own[row][k], dhidden[row][k]);
        }

    /* Without gradients there is nothing to be written; a row of X that is no number is trouble, and where. */
    CHECK(dpo_cpu_lm_head_forward(&PADDED, &head, REF_LOGPS, &SIGMOID, &out, &pairs, NULL, NULL) == DPO_OK);
    hidden[2][0] = INFINITY;
    CHECK(HEAD_FORWARD(PADDED) == DPO_OK && isnan(r.metrics.loss) && nonfinite_row == 0 && r.status.nonfinite_row == 2);

    /* Refusals: what logits alone have, too little memory, and gradients where something else is. */
    dpo_batch strided = PADDED;
    strided.given = DPO_BATCH_ROW_STRIDE;
    strided.row_stride = V;
    REFUSED(HEAD_FORWARD(strided), DPO_ERROR_VALUE,
            "row_stride: expected none, where logits are made of hidden states, which are dense, found 4");
    head.given = DPO_LM_HEAD_BUDGET_BYTES;
    head.budget_bytes = 31;
    REFUSED(HEAD_FORWARD(PADDED), DPO_ERROR_VALUE, "budget_bytes: expected at least 32, the bytes of one row, found 31");
    head.given = 0;
    head.budget_bytes = 0;
    gradients.hidden = hidden;
    CHECK(HEAD_FORWARD(PADDED) == DPO_ERROR_VALUE);
    CHECK(strncmp(dpo_last_error(), "gradients.hidden: expected memory apart from hidden (32 bytes at ", 65) == 0);
    gradients.hidden = dhidden;
    gradients.bias = &dweight[1][0];
    CHECK(HEAD_FORWARD(PADDED) == DPO_ERROR_VALUE);
    CHECK(strncmp(dpo_last_error(), "gradients.bias: expected memory apart from gradients.weight ", 60) == 0);
}

/* Refusals name the argument, and leave the outputs as they were. */
static void errors(void) {
    float logits[ROWS][V] = {{0}};
    struct results r;
    memset(&r, 0x5a, sizeof r);
    const struct results before = r;
    dpo_batch batch = PADDED;
    dpo_inputs inputs = {.struct_size = sizeof inputs,
                         .dtype = DPO_F32,
                         .label_type = DPO_LABELS_I64,
                         .logits = logits,
                         .labels = LABELS};
    dpo_loss loss = SIGMOID;
    dpo_logps out = logps_outputs(&r);
    dpo_pair_outputs pairs = pair_outputs(&r);
    dpo_gradient gradient = gradient_outputs(&r, logits);
    char expected[128];
#define FORWARD dpo_cpu_forward(&batch, &inputs, REF_LOGPS, &loss, &out, &pairs)

    REFUSED(dpo_cpu_logps(NULL, &inputs, &out), DPO_ERROR_VALUE,
            "batch: expected an address aligned to 8 bytes, found null");
    batch.struct_size = 8;
    snprintf(expected, sizeof expected, "batch: expected struct_size = %zu, found 8", sizeof batch);
    REFUSED(FORWARD, DPO_ERROR_VALUE, expected);
    batch = PADDED;

    inputs.logits = NULL;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "logits: expected an address aligned to 4 bytes, found null");
    REFUSED(dpo_cpu_backward(&batch, &inputs, &gradient), DPO_ERROR_VALUE,
            "logits: expected an address aligned to 4 bytes, found null");
    inputs.logits = (const char *)logits + 1;
    CHECK(FORWARD == DPO_ERROR_VALUE && strncmp(dpo_last_error(), "logits: ", 8) == 0);
    inputs.logits = logits;
    inputs.labels = NULL;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "labels: expected an address aligned to 8 bytes, found null");
    inputs.labels = LABELS;
    inputs.dtype = (dpo_dtype)7;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "dtype: expected a dpo_dtype, found 7");
    inputs.dtype = DPO_F32;
    out.status = NULL;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "status: expected an address aligned to 4 bytes, found null");
    out = logps_outputs(&r);
    pairs.coef = NULL;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "coef: expected an address aligned to 4 bytes, found null");
    pairs = pair_outputs(&r);

    batch.row_stride = 3;
    batch.given = DPO_BATCH_ROW_STRIDE;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "row_stride: expected at least vocab = 4, found 3");
    batch = PADDED;
    batch.pairs = DPO_PAIRS_INDEXED;
    batch.pair_count = 1;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "chosen: expected an address aligned to 4 bytes, found null");
    static const int32_t zero[] = {0}, two[] = {2};
    batch.chosen = zero;
    batch.rejected = two;
    REFUSED(FORWARD, DPO_ERROR_INDEX, "rejected[0]: expected a sequence index below 2, found 2");
    batch.rejected = zero;
    REFUSED(FORWARD, DPO_ERROR_INDEX, "rejected[0]: expected a sequence other than chosen's, found 0");
    batch = PADDED;
    batch.pairs = DPO_PAIRS_NONE;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "pairs: expected a layout with pairs, for a loss, found Pairs::None");
    batch = PADDED;
    loss.beta = 0.0;
    REFUSED(FORWARD, DPO_ERROR_VALUE, "beta: expected a finite number above 0, found 0");
    loss = SIGMOID;
    loss.length_normalized = 1;
    REFUSED(dpo_cpu_pair_loss(&batch, REF_LOGPS, REF_LOGPS, NULL, &loss, &pairs, &r.status), DPO_ERROR_MISSING,
            "lengths: required when the loss is length-normalised");

    gradient.dlogits = &logits[0][1];
    CHECK(dpo_cpu_backward(&batch, &inputs, &gradient) == DPO_ERROR_VALUE);
    CHECK(strncmp(dpo_last_error(), "dlogits: expected the logits buffer itself", 42) == 0);
    REFUSED(dpo_status_check(NULL), DPO_ERROR_VALUE, "status: expected an address aligned to 4 bytes, found null");
    CHECK(memcmp(&r, &before, sizeof r) == 0);

    /* A bad label is the data's trouble, not the call's. */
    static const int64_t bad[ROWS] = {0, 4, 0, 0};
    inputs.labels = bad;
    loss = SIGMOID;
    CHECK(FORWARD == DPO_OK && r.status.bad_label == 1 && isnan(r.metrics.loss));
    REFUSED(dpo_status_check(&r.status), DPO_ERROR_DATA,
            "bad data: label out of range, first in row 1; non-finite log-prob, first in row 1");
}

/* The head of lm_head on a GPU, as far as a plan goes: the numbers of its scored rows, of 8 elements for V and H twice. */
static void lm_head_plans(const dpo_lm_head *head, dpo_cuda_lm_head_workspace workspace) {
    const dpo_lm_head_gradients gradients = {.struct_size = sizeof gradients, .weight = (float *)head->weight};
    dpo_lm_head_plan plan;
    size_t bytes = 0, more = 0;
    CHECK(dpo_cuda_lm_head_workspace_size(&workspace, &bytes) == DPO_OK);
    CHECK(bytes > ((size_t)1 << 25) && bytes < ((size_t)1 << 25) + 8192);
    CHECK(dpo_cuda_lm_head_plan(&PADDED, head, &SIGMOID, &gradients, &workspace, &plan) == DPO_OK);
    CHECK(plan.chunks == 1 && plan.chunk_bytes == 3 * 48 && plan.whole_pairs_rows == 3 && plan.multiplied_rows == 6);
    CHECK(dpo_cuda_lm_head_plan(&PADDED, head, NULL, NULL, &workspace, &plan) == DPO_OK && plan.logps_rows == 3);

    workspace.given = DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES | DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES;
    workspace.budget_bytes = 48;
    CHECK(dpo_cuda_lm_head_workspace_size(&workspace, &more) == DPO_OK && more < bytes - (1u << 24));
    CHECK(dpo_cuda_lm_head_plan(&PADDED, head, NULL, NULL, &workspace, &plan) == DPO_OK && plan.chunks == 3);
    workspace.budget_bytes = 47;
    REFUSED(dpo_cuda_lm_head_workspace_size(&workspace, &more), DPO_ERROR_VALUE,
            "budget_bytes: expected at least 48, the bytes of one row, found 47");
    workspace.budget_bytes = 48;
    workspace.rows = 2;
    REFUSED(dpo_cuda_lm_head_plan(&PADDED, head, NULL, NULL, &workspace, &plan), DPO_ERROR_VALUE,
            "rows: expected at most 2, the capacity, found 3");
    workspace.rows = ROWS;
    workspace.dtype = DPO_BF16;
    REFUSED(dpo_cuda_lm_head_plan(&PADDED, head, NULL, NULL, &workspace, &plan), DPO_ERROR_VALUE,
            "head: expected the workspace's bf16 and hidden_size = 2, found f32 and 2");
    workspace.dtype = DPO_F32;
    dpo_lm_head other = *head;
    other.given = DPO_LM_HEAD_BUDGET_BYTES;
    other.budget_bytes = 64;
    REFUSED(dpo_cuda_lm_head_plan(&PADDED, &other, NULL, NULL, &workspace, &plan), DPO_ERROR_VALUE,
            "budget_bytes: expected none in a head on a GPU, whose workspace has the budget, found 64");
}

/* The CUDA driver, as much of it as memory takes. */
static struct {
    int (*init)(unsigned);
    int (*device)(int *, int);
    int (*retain)(void **, int);
    int (*set_current)(void *);
    int (*allocate)(uint64_t *, size_t);
    int (*zero)(uint64_t, unsigned char, size_t);
    int (*to_device)(uint64_t, const void *, size_t);
    int (*to_host)(void *, uint64_t, size_t);
} driver;

/* Makes the primary context of the first GPU current; 0 where there is none. */
static int has_gpu(void) {
    const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"cuInit", &driver.init},
        {"cuDeviceGet", &driver.device},
        {"cuDevicePrimaryCtxRetain", &driver.retain},
        {"cuCtxSetCurrent", &driver.set_current},
        {"cuMemAlloc_v2", &driver.allocate},
        {"cuMemsetD8_v2", &driver.zero},
        {"cuMemcpyHtoD_v2", &driver.to_device},
        {"cuMemcpyDtoH_v2", &driver.to_host},
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context;
    int device;
    if (library == NULL) return 0;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *found = dlsym(library, functions[i].name);
        CHECK(found != NULL);
        memcpy(functions[i].function, &found, sizeof found);
    }
    if (driver.init(0) != 0 || driver.device(&device, 0) != 0) return 0;
    CHECK(driver.retain(&context, device) == 0 && driver.set_current(context) == 0);
    return 1;
}

/* A copy on the GPU, or zeros for null. */
static void *on_gpu(const void *from, size_t bytes) {
    uint64_t address = 0;
    CHECK(driver.allocate(&address, bytes) == 0);
    CHECK((from == NULL ? driver.zero(address, 0, bytes) : driver.to_device(address, from, bytes)) == 0);
    return (void *)(uintptr_t)address;
}

/* Numbers on the GPU, which are waited for, are `factor` times those that the CPU found. */
static void near(const void *address, const float *expected, size_t count, float factor) {
    float found[ROWS * V];
    CHECK(count <= ROWS * V && driver.to_host(found, (uint64_t)(uintptr_t)address, count * sizeof *found) == 0);
    for (size_t i = 0; i < count; i++)
        CHECK(fabsf(found[i] - factor * expected[i]) <= 1e-5f * (1.0f + fabsf(factor * expected[i])));
}

/* From hidden states on a GPU as on the CPU. */
static void lm_head_on_gpu(void) {
    enum { H = 2 };
    float hidden[ROWS][H], weight[V][H], dhidden[ROWS][H], dweight[V][H] = {{0}}, dbias[V] = {0};
    const float bias[V] = {0.5f, -0.25f, 0.0f, 1.0f};
    const uint32_t no_trouble = DPO_NO_TROUBLE;
    for (int r = 0; r < ROWS; r++) hidden[r][0] = 1.0f, hidden[r][1] = (float)r;
    for (int v = 0; v < V; v++) weight[v][0] = logf((float)(v + 1)), weight[v][1] = (float)(v % 2);
    hidden[3][0] = NAN; /* not scored, so not read */
    struct results r;
    dpo_lm_head head = {.struct_size = sizeof head,
                        .dtype = DPO_F32,
                        .label_type = DPO_LABELS_I64,
                        .hidden_size = H,
                        .hidden = hidden,
                        .weight = weight,
                        .bias = bias,
                        .labels = LABELS};
    dpo_lm_head_gradients gradients = {
        .struct_size = sizeof gradients, .hidden = dhidden, .weight = dweight[0], .bias = dbias};
    dpo_logps out = logps_outputs(&r);
    dpo_pair_outputs pairs = pair_outputs(&r);
    CHECK(dpo_cpu_lm_head_forward(&PADDED, &head, REF_LOGPS, &SIGMOID, &out, &pairs, &gradients, NULL) == DPO_OK);

    dpo_cuda_kernels *kernels = NULL;
    dpo_cuda_products *products = NULL;
    CHECK(dpo_cuda_load(&kernels) == DPO_OK);
    if (dpo_cuda_products_create(&products) == DPO_ERROR_NO_CUBLASLT) {
        printf("not multiplied: %s\n", dpo_last_error());
        dpo_cuda_free(kernels);
        return;
    }
    CHECK(kernels != NULL && products != NULL);
    dpo_cuda_lm_head_workspace workspace = {.struct_size = sizeof workspace,
                                            .sequences = S,
                                            .rows = ROWS,
                                            .pairs = S / 2,
                                            .vocab = V,
                                            .hidden_size = H,
                                            .dtype = DPO_F32};
    size_t bytes;
    CHECK(dpo_cuda_lm_head_workspace_size(&workspace, &bytes) == DPO_OK);
    workspace.memory = on_gpu(NULL, bytes);
    head.hidden = on_gpu(hidden, sizeof hidden);
    head.weight = on_gpu(weight, sizeof weight);
    head.bias = on_gpu(bias, sizeof bias);
    gradients.hidden = on_gpu(NULL, sizeof dhidden);
    gradients.weight = on_gpu(NULL, sizeof dweight);
    gradients.bias = on_gpu(NULL, sizeof dbias);
    gradients.nonfinite_row = on_gpu(&no_trouble, sizeof no_trouble);
    const float *ref_logps = on_gpu(REF_LOGPS, sizeof REF_LOGPS);
    struct results *results = on_gpu(NULL, sizeof *results), found;
    out = logps_outputs(results);
    pairs = pair_outputs(results);
#define HEAD_ON_GPU kernels, products, &PADDED, &head
    CHECK(dpo_cuda_lm_head_forward(HEAD_ON_GPU, ref_logps, &SIGMOID, &out, &pairs, &gradients, &workspace, NULL) ==
          DPO_OK);
    CHECK(driver.to_host(&found, (uint64_t)(uintptr_t)results, sizeof found) == 0);
    CHECK(dpo_status_check(&found.status) == DPO_OK && found.scored[0] == 2 && found.scored[1] == 1);
    near(&results->metrics.loss, &r.metrics.loss, 1, 1.0f);
    near(results->token_logps, r.token_logps, ROWS, 1.0f);
    near(results->coef, r.coef, S, 1.0f);
    near(gradients.hidden, dhidden[0], ROWS * H, 1.0f);
    near(gradients.weight, dweight[0], V * H, 1.0f);
    near(gradients.bias, dbias, V, 1.0f);

    /* The same coefficients, as a loss of one's own gives them: the gradients of weight and bias add up. */
    const dpo_lm_head_backward_inputs inputs = {.struct_size = sizeof inputs,
                                                .logsumexp = results->logsumexp,
                                                .logsumexp_residual = results->residual,
                                                .coef = results->coef};
    CHECK(dpo_cuda_lm_head_logps(HEAD_ON_GPU, &out, &workspace, NULL) == DPO_OK);
    CHECK(dpo_cuda_lm_head_backward(HEAD_ON_GPU, &inputs, &gradients, &workspace, NULL) == DPO_OK);
    near(results->logps, r.logps, S, 1.0f);
    near(gradients.hidden, dhidden[0], ROWS * H, 1.0f);
    near(gradients.weight, dweight[0], V * H, 2.0f);
    near(gradients.bias, dbias, V, 2.0f);
    uint32_t nonfinite_row = 0;
    CHECK(driver.to_host(&nonfinite_row, (uint64_t)(uintptr_t)gradients.nonfinite_row, sizeof nonfinite_row) == 0);
    CHECK(nonfinite_row == DPO_NO_TROUBLE);
    dpo_cuda_products_free(products);
    dpo_cuda_free(kernels);
}

/* What can be said of the GPU half without a GPU, and of the head with one. `cuda`: whether the library was built with it. */
static void gpu(int cuda) {
    dpo_cuda_kernels *kernels = NULL;
    dpo_cuda_products *products = NULL;
    dpo_workspace workspace = {.struct_size = sizeof workspace, .sequences = S, .rows = ROWS, .vocab = V};
    dpo_cuda_lm_head_workspace of_head = {.struct_size = sizeof of_head,
                                          .sequences = S,
                                          .rows = ROWS,
                                          .pairs = S / 2,
                                          .vocab = V,
                                          .hidden_size = 2,
                                          .dtype = DPO_F32};
    const dpo_lm_head head = {.struct_size = sizeof head,
                              .dtype = DPO_F32,
                              .label_type = DPO_LABELS_I64,
                              .hidden_size = 2,
                              .weight = REF_LOGPS, /* not looked at */
                              .labels = LABELS};
    dpo_lm_head_plan plan;
    size_t bytes = 0, more = 0;
    dpo_cuda_free(NULL);
    dpo_cuda_products_free(NULL);
    const dpo_result loaded = dpo_cuda_load(&kernels);
    if (!cuda) {
        const char *message = "CUDA: expected a library built with the feature cuda, found one without";
        REFUSED(dpo_cuda_load(&kernels), DPO_ERROR_UNSUPPORTED, message);
        REFUSED(dpo_cuda_workspace_size(&workspace, &bytes), DPO_ERROR_UNSUPPORTED, message);
        REFUSED(dpo_cuda_products_create(&products), DPO_ERROR_UNSUPPORTED, message);
        REFUSED(dpo_cuda_lm_head_workspace_size(&of_head, &bytes), DPO_ERROR_UNSUPPORTED, message);
        REFUSED(dpo_cuda_lm_head_plan(&PADDED, &head, NULL, NULL, &of_head, &plan), DPO_ERROR_UNSUPPORTED, message);
        return;
    }
    /* No driver, or no context current on this thread. */
    CHECK(loaded == DPO_ERROR_NO_DRIVER || loaded == DPO_ERROR_DRIVER);
    CHECK(dpo_last_error()[0] != '\0' && kernels == NULL);
    REFUSED(dpo_cuda_load(NULL), DPO_ERROR_VALUE, "kernels: expected an address aligned to 8 bytes, found null");
    CHECK(dpo_cuda_workspace_size(&workspace, &bytes) == DPO_OK && bytes >= 4 * ROWS && bytes < 1024);
    workspace.rows *= 2;
    CHECK(dpo_cuda_workspace_size(&workspace, &more) == DPO_OK && more > bytes);
    workspace.rows = 0;
    REFUSED(dpo_cuda_workspace_size(&workspace, &bytes), DPO_ERROR_VALUE,
            "rows: expected a capacity between 1 and 2147483647, found 0");
    workspace.rows = ROWS;
    REFUSED(dpo_cuda_workspace_size(&workspace, NULL), DPO_ERROR_VALUE,
            "bytes: expected an address aligned to 8 bytes, found null");
    const char *message = "kernels: expected an address aligned to 8 bytes, found null";
    REFUSED(dpo_cuda_logps(NULL, &PADDED, NULL, NULL, NULL, NULL), DPO_ERROR_VALUE, message);
    REFUSED(dpo_cuda_pair_loss(NULL, &PADDED, NULL, NULL, NULL, &SIGMOID, NULL, NULL, NULL), DPO_ERROR_VALUE, message);
    REFUSED(dpo_cuda_forward(NULL, &PADDED, NULL, NULL, &SIGMOID, NULL, NULL, NULL, NULL), DPO_ERROR_VALUE, message);
    REFUSED(dpo_cuda_backward(NULL, &PADDED, NULL, NULL, NULL), DPO_ERROR_VALUE, message);

    /* No cuBLASLt, no driver, or no context. */
    const dpo_result created = dpo_cuda_products_create(&products);
    CHECK(created == DPO_ERROR_NO_CUBLASLT || created == DPO_ERROR_NO_DRIVER || created == DPO_ERROR_DRIVER);
    CHECK(products == NULL);
    CHECK(created != DPO_ERROR_NO_CUBLASLT || strstr(dpo_last_error(), "libcublasLt.so") != NULL);
    REFUSED(dpo_cuda_products_create(NULL), DPO_ERROR_VALUE,
            "products: expected an address aligned to 8 bytes, found null");
#define WITHOUT_KERNELS NULL, NULL, &PADDED, &head
    REFUSED(dpo_cuda_lm_head_logps(WITHOUT_KERNELS, NULL, NULL, NULL), DPO_ERROR_VALUE, message);
    REFUSED(dpo_cuda_lm_head_forward(WITHOUT_KERNELS, NULL, NULL, NULL, NULL, NULL, NULL, NULL), DPO_ERROR_VALUE,
            message);
    REFUSED(dpo_cuda_lm_head_backward(WITHOUT_KERNELS, NULL, NULL, NULL, NULL), DPO_ERROR_VALUE, message);
    REFUSED(dpo_cuda_lm_head_workspace_size(NULL, &bytes), DPO_ERROR_VALUE,
            "workspace: expected an address aligned to 8 bytes, found null");
    REFUSED(dpo_cuda_lm_head_workspace_size(&of_head, NULL), DPO_ERROR_VALUE,
            "bytes: expected an address aligned to 8 bytes, found null");
    REFUSED(dpo_cuda_lm_head_plan(&PADDED, &head, NULL, NULL, &of_head, NULL), DPO_ERROR_VALUE,
            "plan: expected an address aligned to 8 bytes, found null");
    lm_head_plans(&head, of_head);
    if (has_gpu()) lm_head_on_gpu();
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && dpo_version() == DPO_VERSION);
    CHECK(dpo_last_error()[0] == '\0');
    f32_padded();
    half_packed();
    other_losses();
    references();
    absent();
    extras();
    lm_head();
    errors();
    gpu(strcmp(argv[1], "cuda") == 0);
    printf("%d checks hold\n", checks);
    return 0;
}
