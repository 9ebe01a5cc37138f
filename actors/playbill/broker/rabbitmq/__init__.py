"""RabbitMQ: topology, publisher and intake on pika."""
