// The least that one does with the C++ gRPC library: a generated service, on one thread, whose handler does nothing.
#include <grpcpp/grpcpp.h>

#include <string>

#include "authorization.grpc.pb.h"

namespace {

using envoy::service::auth::v3::Authorization;
using keytoll::envoy::messages::CheckRequest;
using keytoll::envoy::messages::CheckResponse;

class Call {
 public:
  Call(Authorization::AsyncService& service, grpc::ServerCompletionQueue& queue)
      : service_(service), queue_(queue), writer_(&context_) {
    service_.RequestCheck(&context_, &request_, &writer_, &queue_, &queue_, this);
  }

  void Proceed(bool ok) {
    if (!ok || answered_) {
      delete this;
      return;
    }
    new Call(service_, queue_);  // the next one to come
    answered_ = true;
    writer_.Finish(CheckResponse(), grpc::Status::OK, this);
  }

 private:
  Authorization::AsyncService& service_;
  grpc::ServerCompletionQueue& queue_;
  grpc::ServerContext context_;
  CheckRequest request_;
  grpc::ServerAsyncResponseWriter<CheckResponse> writer_;
  bool answered_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Authorization::AsyncService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string("unix:") + argv[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  for (int waiting = 0; waiting < 64; ++waiting) new Call(service, *queue);
  void* tag;
  bool ok;
  while (queue->Next(&tag, &ok)) static_cast<Call*>(tag)->Proceed(ok);
}
