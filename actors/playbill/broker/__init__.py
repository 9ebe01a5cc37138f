"""How due work reaches the workers: Dramatiq brokers over RabbitMQ or straight from the store, and the enqueue path."""
