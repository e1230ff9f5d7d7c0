// Memory and events of other processes. What travels between them is a token of bytes: plain data, which whoever
// sends it may have made up.
#pragma once

#include <memory>
#include <string>

#include "event.h"
#include "tensor.h"

namespace unify {

// Throws Unsupported where the backend shares nothing between processes. `what` is asked for, in words.
void require_sharing(const Device& device, const char* what);

// A token of the tensor, for other processes. Waits for the work that `stream` holds now, so that who opens it can
// read. The tensor must live until the last of them is done with it. Throws Unsupported for memory that is not the
// allocator's.
std::string share(const Tensor& tensor, Stream& stream);

// A tensor over the other process's memory, of the same shape and strides. A token is opened once in this process, and
// closed when the last tensor of it is gone and every stream has passed its use.
// Throws InvalidArgument for what is no such token, or one of this same process.
Tensor open_tensor(const std::shared_ptr<Device>& device, const std::string& token);

// The same for events that were made to be shared. An import is recorded, waited for and asked as the event itself.
std::string share(const Event& event);
std::shared_ptr<Event> open_event(const std::shared_ptr<Device>& device, const std::string& token);

// The device that a tensor's or event's token is of, by its name in the other process: "cuda:0".
std::string device_of_token(const std::string& token);

}  // namespace unify
