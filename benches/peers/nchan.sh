#!/usr/bin/env bash
# nginx with nchan, as one process: WebSocket subscribers at /feed/<topic>, POST to /publish/<topic>. With two
# arguments, a certificate and its key, subscribers connect over TLS.
#
# It prints its address before it listens: the reader must retry until a connection succeeds.
set -euo pipefail
port=$("$(dirname "$0")/free_port.sh")
directory=$(mktemp -d)
scheme=ws
tls=
publishing=$port
if [[ $# -eq 2 ]]; then
    scheme=wss
    tls=" ssl; ssl_certificate $1; ssl_certificate_key $2; ssl_session_tickets on"
    publishing=$("$(dirname "$0")/free_port.sh")
    tls="$tls; listen 127.0.0.1:$publishing"
fi
cat >"$directory/nginx.conf" <<CONF
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
master_process off;
pid $directory/pid;
error_log $directory/error.log;
events { worker_connections 65536; }
http {
  access_log off;
  client_body_temp_path $directory/body;
  proxy_temp_path $directory/proxy;
  fastcgi_temp_path $directory/fastcgi;
  uwsgi_temp_path $directory/uwsgi;
  scgi_temp_path $directory/scgi;
  keepalive_requests 1000000000;
  nchan_shared_memory_size 128M;
  server {
    listen 127.0.0.1:$port$tls;
    location ~ /feed/(\w+)\$ {
      nchan_subscriber websocket;
      nchan_channel_id \$1;
      nchan_subscriber_first_message newest;
    }
    location ~ /publish/(\w+)\$ {
      nchan_publisher http;
      nchan_channel_id \$1;
      nchan_message_buffer_length 1000;
    }
  }
}
CONF
echo "listening on $scheme://127.0.0.1:$port"
echo "control on http://127.0.0.1:$publishing"
echo ready
exec nginx -c "$directory/nginx.conf"
