// Java's own WebSocket client over wss: receives one message of a feed that it publishes itself, and closes.
//
//   java Feed.java URL CA_FILE PUBLISH_URL

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class Feed {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newBuilder().sslContext(trusting(Path.of(arguments[1]))).build();
        var message = new CompletableFuture<String>();
        var closed = new CompletableFuture<Integer>();
        WebSocket socket = client.newWebSocketBuilder().buildAsync(URI.create(arguments[0]), new WebSocket.Listener() {
            private final StringBuilder parts = new StringBuilder();

            @Override
            public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean isLast) {
                parts.append(data);
                if (isLast) message.complete(parts.toString());
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                closed.complete(code);
                return null;
            }

            @Override
            public void onError(WebSocket socket, Throwable error) {
                message.completeExceptionally(error);
                closed.completeExceptionally(error);
            }
        }).get(20, TimeUnit.SECONDS);

        // Larger than one record and one receive buffer of the client.
        String text = "ä".repeat(40_000);
        HttpRequest publish = HttpRequest.newBuilder(URI.create(arguments[2]))
            .POST(HttpRequest.BodyPublishers.ofString(text)).build();
        HttpClient.newHttpClient().send(publish, HttpResponse.BodyHandlers.discarding());
        if (!message.get(20, TimeUnit.SECONDS).equals(text)) throw new AssertionError("another text");
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "bye").get(20, TimeUnit.SECONDS);
        System.out.println("received " + text.length() + ", closed " + closed.get(20, TimeUnit.SECONDS));
    }

    /** Trusts this authority alone. */
    private static SSLContext trusting(Path file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (var input = Files.newInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(input));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
