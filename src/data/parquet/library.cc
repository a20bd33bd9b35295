/* library.cc: libnibble-parquet.so: Apache Arrow's reader of Parquet behind one C function (data/parquet.h).
 *
 * The column is read page by page (Arrow's low-level reader): neither a row group nor a table of Arrow's ever exists in
 * memory. Checksums of pages are compared where a file has them.
 */
#include "data/parquet.h"

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include <arrow/buffer.h>
#include <arrow/io/memory.h>
#include <parquet/column_reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/schema.h>
#include <parquet/types.h>

namespace {

/* What this file finds wrong, as a sentence. */
struct Refused {
    std::string why;
};

struct Taker {
    ni_parquet_take *take;
    void *context;
};

std::string quoted(const std::string &name) {
    return "\"" + name.substr(0, 40) + "\"";
}

bool is_text(const parquet::schema::Node &node) {
    if (!node.is_primitive() || node.is_repeated())
        return false;
    const auto &leaf = static_cast<const parquet::schema::PrimitiveNode &>(node);
    const auto &meant = node.logical_type();
    return leaf.physical_type() == parquet::Type::BYTE_ARRAY &&
           (!meant || meant->is_none() || meant->is_string() || meant->is_enum());
}

std::string kind_of(const parquet::schema::Node &node) {
    const auto &meant = node.logical_type();
    if (!node.is_primitive() || node.is_repeated())
        return meant && !meant->is_none() ? "nested (" + meant->ToString() + ")" : "nested";
    if (meant && !meant->is_none())
        return "of type " + meant->ToString();
    return "of type " +
           parquet::TypeToString(static_cast<const parquet::schema::PrimitiveNode &>(node).physical_type());
}

/* "; hint: --field NAME, and this file has columns of text: a, b" */
std::string name_others(const parquet::schema::GroupNode &root) {
    constexpr size_t ROOM = 200;
    std::string names;
    for (int i = 0; i < root.field_count(); i++)
        if (is_text(*root.field(i)) && names.size() + root.field(i)->name().size() + 2 < ROOM)
            names += (names.empty() ? "" : ", ") + root.field(i)->name();
    return names.empty() ? "; this file has no column of text"
                         : "; hint: --field NAME, and this file has columns of text: " + names;
}

/* The leaf of the schema that is the column. */
int find_column(const parquet::SchemaDescriptor &schema, const std::string &name) {
    const parquet::schema::GroupNode &root = *schema.group_node();
    for (int i = 0; i < root.field_count(); i++) {
        const parquet::schema::Node &node = *root.field(i);
        if (node.name() != name)
            continue;
        if (!is_text(node))
            throw Refused{"its column " + quoted(name) + " is " + kind_of(node) + "; expected a column of strings" +
                          name_others(root)};
        return schema.ColumnIndex(node);
    }
    throw Refused{"has no column " + quoted(name) + name_others(root)};
}

/* False: the taker wants no more. */
bool read_group(parquet::RowGroupReader &group, int column, const Taker &to) {
    constexpr int64_t ROWS = 1024;
    int16_t defined[ROWS];
    parquet::ByteArray values[ROWS];
    const int64_t rows = group.metadata()->num_rows();
    const auto reader = std::static_pointer_cast<parquet::ByteArrayReader>(group.Column(column));
    int64_t seen = 0;
    while (reader->HasNext()) {
        int64_t count = 0;
        const int64_t levels = reader->ReadBatch(ROWS, defined, nullptr, values, &count);
        if (levels <= 0 || count > levels)
            throw Refused{"a page of it holds no rows"};
        seen += levels;
        for (int64_t i = 0; i < count; i++)
            if (!to.take(to.context, reinterpret_cast<const char *>(values[i].ptr), values[i].len))
                return false;
    }
    if (seen != rows)
        throw Refused{"a row group of it has " + std::to_string(seen) + " rows, expected " + std::to_string(rows)};
    return true;
}

ni_parquet_said read_file(const void *bytes, size_t size, const char *name, const Taker &to) {
    parquet::ReaderProperties properties;
    properties.set_page_checksum_verification(true);
    const auto buffer =
        std::make_shared<arrow::Buffer>(static_cast<const uint8_t *>(bytes), static_cast<int64_t>(size));
    const auto file = parquet::ParquetFileReader::Open(std::make_shared<arrow::io::BufferReader>(buffer), properties);
    const auto metadata = file->metadata();
    const int column = find_column(*metadata->schema(), name);
    for (int i = 0; i < metadata->num_row_groups(); i++)
        if (!read_group(*file->RowGroup(i), column, to))
            return NI_PARQUET_STOPPED;
    return NI_PARQUET_DONE;
}

/* Where exceptions are handled: what is thrown there goes into C, so it allocates nothing. Sentences of Arrow's may
 * have line breaks. */
ni_parquet_said say(char *why, const char *begin, const char *rest, ni_parquet_said what) noexcept {
    std::snprintf(why, NI_PARQUET_WHY, "%s%s", begin, rest);
    for (char *c = why; *c; c++)
        *c = static_cast<unsigned char>(*c) < ' ' ? ' ' : *c;
    return what;
}

bool is_out_of_memory(const parquet::ParquetException &problem) {
    const auto *status = dynamic_cast<const parquet::ParquetStatusException *>(&problem);
    return status && status->status().IsOutOfMemory();
}

} // namespace

extern "C" __attribute__((visibility("default"))) ni_parquet_library_read_function ni_parquet_library_read;

ni_parquet_said ni_parquet_library_read(int fit, const void *bytes, size_t size, const char *column,
                                        ni_parquet_take *take, void *context, char why[NI_PARQUET_WHY]) {
    try {
        if (fit != NI_PARQUET_FIT)
            return NI_PARQUET_UNFIT;
        return read_file(bytes, size, column, Taker{take, context});
    } catch (const Refused &problem) {
        return say(why, problem.why.c_str(), "", NI_PARQUET_BAD_FILE);
    } catch (const std::bad_alloc &) {
        return say(why, "no memory for a page of it", "", NI_PARQUET_NO_MEMORY);
    } catch (const parquet::ParquetException &problem) {
        if (is_out_of_memory(problem))
            return say(why, "no memory for a page of it", "", NI_PARQUET_NO_MEMORY);
        return say(why, "the Parquet file is damaged, or of a kind that Arrow does not read: ", problem.what(),
                   NI_PARQUET_BAD_FILE);
    } catch (const std::exception &problem) {
        return say(why, "the Parquet file cannot be read: ", problem.what(), NI_PARQUET_BAD_FILE);
    } catch (...) {
        return say(why, "the Parquet file cannot be read", "", NI_PARQUET_BAD_FILE);
    }
}
