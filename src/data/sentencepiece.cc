/* sentencepiece.cc: the only C++ of the library. Every function catches, so that C never meets an exception. */
#include "sentencepiece.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

struct ni_sp {
    sentencepiece::SentencePieceProcessor processor;
};

/* Version 0.1.96 writes to stderr when it loads a model; of this function no header speaks, and others may lack it. */
namespace sentencepiece {
namespace logging {
__attribute__((weak)) void SetMinLogLevel(int level);
}
} // namespace sentencepiece

namespace {

enum { SILENT = 4 }; /* above FATAL */

bool say(char *why, const std::string &text) {
    std::snprintf(why, NI_SP_WHY, "%s", text.c_str());
    return false;
}

/* Runs `work`, which returns a sentencepiece status. */
template <typename Work> bool guarded(char *why, Work work) {
    try {
        const sentencepiece::util::Status status = work();
        return status.ok() || say(why, status.error_message());
    } catch (const std::exception &problem) {
        return say(why, problem.what());
    } catch (...) {
        return say(why, "unknown exception");
    }
}

template <typename T> T *copy_out(const T *from, size_t count) {
    T *memory = static_cast<T *>(std::malloc((count + 1) * sizeof(T)));
    if (!memory)
        throw std::bad_alloc();
    if (count)
        std::memcpy(memory, from, count * sizeof(T));
    return memory;
}

class Lines : public sentencepiece::SentenceIterator {
  public:
    Lines(ni_sp_next_line *next, void *context) : next_(next), context_(context) {
        Next();
    }
    bool done() const override {
        return done_;
    }
    void Next() override {
        const char *line = nullptr;
        size_t size = 0;
        done_ = !next_(context_, &line, &size);
        if (!done_)
            value_.assign(line, size);
    }
    const std::string &value() const override {
        return value_;
    }
    sentencepiece::util::Status status() const override {
        return sentencepiece::util::Status();
    }

  private:
    ni_sp_next_line *next_;
    void *context_;
    std::string value_;
    bool done_ = false;
};

} // namespace

extern "C" {

ni_sp *ni_sp_load(const char *model, size_t size, char *why) {
    ni_sp *sp = nullptr;
    const bool good = guarded(why, [&] {
        sp = new ni_sp;
        if (sentencepiece::logging::SetMinLogLevel)
            sentencepiece::logging::SetMinLogLevel(SILENT);
        return sp->processor.LoadFromSerializedProto(absl::string_view(model, size));
    });
    if (good)
        return sp;
    delete sp;
    return nullptr;
}

void ni_sp_free(ni_sp *sp) {
    delete sp;
}

int32_t ni_sp_pieces(const ni_sp *sp) {
    return sp->processor.GetPieceSize();
}

int32_t ni_sp_end_id(const ni_sp *sp) {
    return sp->processor.eos_id();
}

int32_t ni_sp_id(const ni_sp *sp, const char *piece) {
    const int id = sp->processor.PieceToId(piece);
    return id >= 0 && id < ni_sp_pieces(sp) && sp->processor.IdToPiece(id) == piece ? id : -1;
}

const char *ni_sp_piece(const ni_sp *sp, int32_t id) {
    return sp->processor.IdToPiece(id).c_str();
}

enum ni_sp_type ni_sp_piece_type(const ni_sp *sp, int32_t id) {
    const sentencepiece::SentencePieceProcessor &p = sp->processor;
    return p.IsUnknown(id)   ? NI_SP_UNKNOWN
           : p.IsControl(id) ? NI_SP_CONTROL
           : p.IsUnused(id)  ? NI_SP_UNUSED
           : p.IsByte(id)    ? NI_SP_BYTE
                             : NI_SP_NORMAL;
}

float ni_sp_score(const ni_sp *sp, int32_t id) {
    return sp->processor.GetScore(id);
}

bool ni_sp_encode(const ni_sp *sp, const char *text, size_t size, int32_t **ids, size_t *count, char *why) {
    return guarded(why, [&] {
        std::vector<int> found;
        const sentencepiece::util::Status status = sp->processor.Encode(absl::string_view(text, size), &found);
        if (status.ok()) {
            *ids = copy_out(found.data(), found.size());
            *count = found.size();
        }
        return status;
    });
}

bool ni_sp_decode(const ni_sp *sp, const int32_t *ids, size_t count, char **text, size_t *size, char *why) {
    return guarded(why, [&] {
        std::string found;
        const sentencepiece::util::Status status = sp->processor.Decode(std::vector<int>(ids, ids + count), &found);
        if (status.ok()) {
            *text = copy_out(found.c_str(), found.size() + 1);
            *size = found.size();
        }
        return status;
    });
}

bool ni_sp_train(ni_sp_next_line *next, void *context, int32_t vocab, char **model, size_t *size, char *why) {
    return guarded(why, [&] {
        const std::unordered_map<std::string, std::string> options = {
            {"model_type", "bpe"},
            {"vocab_size", std::to_string(vocab)},
            {"byte_fallback", "true"},
            {"character_coverage", "0.9999"},
            {"normalization_rule_name", "identity"},
            {"remove_extra_whitespaces", "false"},
            {"add_dummy_prefix", "false"},
            {"split_digits", "true"},
            {"allow_whitespace_only_pieces", "true"},
            {"num_threads", "1"},
            {"minloglevel", std::to_string(SILENT)},
        };
        Lines lines(next, context);
        std::string trained;
        const sentencepiece::util::Status status =
            sentencepiece::SentencePieceTrainer::Train(options, &lines, &trained);
        if (status.ok()) {
            *model = copy_out(trained.data(), trained.size());
            *size = trained.size();
        }
        return status;
    });
}

} // extern "C"
