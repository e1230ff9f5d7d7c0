// JSON as text, written from its beginning to its end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace unify::simulator {

inline void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char each : text) {
    const auto byte = static_cast<unsigned char>(each);
    if (byte < 0x20 || each == '"' || each == '\\') {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(byte));
      out += escaped;
    } else {
      out += each;
    }
  }
  out += '"';
}

class Json {
 public:
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  void begin_object() { open('{'); }
  void begin_object(std::string_view key) { open(key, '{'); }
  void begin_array(std::string_view key) { open(key, '['); }
  void add(const std::string& value) {
    separate();
    append_json(text_, value);
  }
  void end_object() { close('}'); }
  void end_array() { close(']'); }
  void add(std::string_view key, uint64_t value) {
    name(key);
    text_ += std::to_string(value);
  }
  void add(std::string_view key, const std::string& value) {
    name(key);
    append_json(text_, value);
  }

 private:
  void separate() {
    if (!is_first_) text_ += ',';
    is_first_ = false;
  }
  void name(std::string_view key) {
    separate();
    append_json(text_, key);
    text_ += ':';
  }
  void open(char bracket) {
    separate();
    text_ += bracket;
    is_first_ = true;
  }
  void open(std::string_view key, char bracket) {
    name(key);
    text_ += bracket;
    is_first_ = true;
  }
  void close(char bracket) {
    text_ += bracket;
    is_first_ = false;
  }

  std::string text_;
  bool is_first_ = true;
};

}  // namespace unify::simulator
